"""From a folder to a repository, by one commit: a whole family, or some languages of one that is there already."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
)
from huggingface_hub.hf_api import RepoFile

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import HubError, LanguageError, check_languages
from hf_meta_adapters.hub._card import CARD, card_text
from hf_meta_adapters.hub._run_record import COSINES, merge_details
from hf_meta_adapters.hub._safety import LARGEST_TEXT
from hf_meta_adapters.hub._same_family import Remote, check_same_family
from hf_meta_adapters.hub.client import Access, speaking_of
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest, write_manifest


@dataclass(frozen=True)
class Push:
    """Where a family is pushed to, and how.

    Args:
        repo_id: The repository.
        languages: Those to add or to replace; `None` for the whole family.
        private: Whether a new repository is private; `None` for the default of the account.
        revision: The branch; made if it is missing.
        commit_message: The first line of the commit.
        create_pr: Whether the change is offered to the owner instead of made.
        token: The token.
    """

    repo_id: str
    languages: Sequence[Language] | None
    private: bool | None
    revision: str | None
    commit_message: str | None
    create_pr: bool
    access: Access


def push_family(push: Push, save: Callable[[Path], None]) -> CommitInfo:
    """Make one commit of what `save` writes: it is there as a whole, or not at all.

    Args:
        push: Where to.
        save: Writes the family, with the languages that are to be pushed, into a folder.

    Returns:
        The commit.

    Raises:
        HubError: If the repository cannot be written, has moved, or holds another family.
    """
    with tempfile.TemporaryDirectory(prefix="hf_meta_adapters_") as scratch:
        folder = Path(scratch) / "family"
        save(folder)
        family = read_manifest(folder)
        _check_base(family)
        with speaking_of(push.repo_id, push.access.token):
            api = push.access.api()
            remote = _look(api, push, Path(scratch) / "cache")
            stale: list[str] = []
            if remote.family is None:
                paths = _paths(folder)
            elif push.languages is None:
                paths, stale = _paths(folder), _stale(family, remote)
            else:
                check_same_family(folder, family, remote)
                family = _joined(family, remote.family)
                folders = family.adapters(push.languages) if not family.share_adapter else []
                paths = [
                    MANIFEST,
                    CARD,
                    *(path for path in _paths(folder) if path.split("/")[0] in folders),
                ]
                if (
                    family.details.get("gradient_cosine_picture") == COSINES
                    and COSINES not in remote.files
                ):
                    paths.append(COSINES)
                write_manifest(folder, family.to_json())
            old = remote.text(CARD)
            (folder / CARD).write_text(
                card_text(family, old, repo_id=remote.repo_id), encoding="utf-8"
            )
            return api.create_commit(
                remote.repo_id,
                [
                    *(CommitOperationDelete(path) for path in stale),
                    *(CommitOperationAdd(path, str(folder / path)) for path in paths),
                ],
                commit_message=push.commit_message or _message(family, push.languages),
                revision=push.revision,
                parent_commit=remote.commit,
                create_pr=push.create_pr,
            )


def published_card(repo_id: str, revision: str | None, token: str | bool | None) -> str | None:
    """The model card of a repository; `None` if there is none."""
    with (
        speaking_of(repo_id, token),
        tempfile.TemporaryDirectory(prefix="hf_meta_adapters_") as scratch,
    ):
        api = Access(revision, token).api()
        return _remote(api, repo_id, revision, Path(scratch), token).text(CARD)


def write_card_file(
    folder: Path, existing: str | None, *, repo_id: str, metadata: Mapping[str, Any]
) -> None:
    """Write the model card of a saved family into its folder.

    Args:
        folder: The folder.
        existing: The card that is there already, whose own text is kept.
        repo_id: The repository.
        metadata: Further metadata, such as a licence.
    """
    text = card_text(read_manifest(folder), existing, repo_id=repo_id)
    card = ModelCard(text)
    for name, value in metadata.items():
        added = [value] if name == "tags" and isinstance(value, str) else value
        card.data[name] = (
            list(dict.fromkeys([*(card.data.get(name) or []), *added])) if name == "tags" else added
        )
    (folder / CARD).write_text(str(card), encoding="utf-8")


def _look(api: HfApi, push: Push, cache: Path) -> Remote:
    """What the repository holds now; it is made if it is missing."""
    repo_id = api.create_repo(push.repo_id, private=push.private, exist_ok=True).repo_id
    if push.revision and not push.create_pr and not push.revision.startswith("refs/"):
        api.create_branch(repo_id, branch=push.revision, exist_ok=True)
    return _remote(api, repo_id, push.revision, cache, push.access.token)


def _remote(
    api: HfApi, repo_id: str, revision: str | None, cache: Path, token: str | bool | None
) -> Remote:
    commit = api.repo_info(repo_id, revision=revision).sha
    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    files = {one.path: one for one in tree if isinstance(one, RepoFile)}

    def fetch(path: str) -> Path:
        return Path(hf_hub_download(repo_id, path, revision=commit, token=token, cache_dir=cache))

    for path in (MANIFEST, CARD):
        if path in files and files[path].size > LARGEST_TEXT:
            raise HubError(
                f"`{path}` must be a short text. Found {files[path].size:,} bytes of it in"
                f" {repo_id!r}. Remove it there, or push to another repository."
            )
    family = read_manifest(fetch(MANIFEST).parent) if MANIFEST in files else None
    return Remote(repo_id, str(commit), files, family, fetch)


def _joined(family: Family, remote: Family) -> Family:
    """The manifest of a family with further languages."""
    order = [*remote.languages, *(key for key in family.languages if key not in remote.languages)]
    try:
        languages = check_languages(order)
    except LanguageError as error:
        raise HubError(
            f"Languages of one family must have keys of their own. {error} Rename the new one"
            " before you push it."
        ) from error
    kept = {
        path: size
        for path, size in remote.files.items()
        if path.split("/")[0] not in family.languages
    }
    own = {
        path: size for path, size in family.files.items() if path.split("/")[0] in family.languages
    }
    files = {**kept, **own}
    return replace(
        remote,
        languages=languages,
        files=files,
        details=merge_details(remote.details, family.details),
    )


def _stale(family: Family, remote: Remote) -> list[str]:
    """Weights of the family that was there before and are not part of the new one; no language is ever removed."""
    before = remote.family
    if before is None:
        return []
    if lost := [key for key in before.languages if key not in family.languages]:
        raise HubError(
            "A whole family must hold the languages of the one that it replaces. Found"
            f" {remote.repo_id!r} with {lost}, which this model lacks. Write `push_to_hub(...,"
            f" languages={list(family.languages)})` to add or replace only these, load the others,"
            " too, or push to another repository."
        )
    gone = [path for path in before.files if path not in family.files]
    if "model.safetensors" in family.files:
        gone.append("model.safetensors.index.json")
    return [path for path in gone if path in remote.files]


def _check_base(family: Family) -> None:
    if family.base_model and Path(family.base_model).is_dir():
        raise HubError(
            "A published family over a frozen base must name a repository on the Hub. Found the"
            f" folder {family.base_model!r}, which others do not have. Publish the base, load it by"
            " its name there, and push."
        )


def _paths(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _message(family: Family, languages: Sequence[Language] | None) -> str:
    return (
        f"Add {', '.join(languages)}" if languages else f"Family of {', '.join(family.languages)}"
    )

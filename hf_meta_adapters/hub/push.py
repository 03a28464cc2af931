"""From a folder to a repository, by one commit: a whole family, or languages of a published one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationDelete,
    HfApi,
    ModelCard,
)

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._base_license import with_base_license
from hf_meta_adapters.hub._card import CARD, card_text
from hf_meta_adapters.hub._card_files import card_files
from hf_meta_adapters.hub._needed_files import ADAPTER_CONFIG
from hf_meta_adapters.hub._remote import Remote, read_remote
from hf_meta_adapters.hub._same_family import check_same_family
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.hub.client import Access, speaking_of
from hf_meta_adapters.hub.links import check_no_links
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest, write_manifest
from hf_meta_adapters.hub.others import Others, joined_languages, with_others
from hf_meta_adapters.hub.public import additions, files_to_publish, public_family
from hf_meta_adapters.hub.record import COSINES, details_of, merge_details
from hf_meta_adapters.results.files import write_text

_SCRATCH = "hf_meta_adapters_"
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Push:
    """Where a family is pushed to, and how.

    Args:
        repo_id: The repository.
        languages: The languages to add or to replace; `None` for the whole family.
        private: Whether a new repository is private; `None` for the default of the account.
        revision: The branch; created if it is missing.
        commit_message: The first line of the commit.
        create_pr: Whether to offer the change to the owner instead of making it.
        access: How the repository is reached.
        others: The languages that the model lacks, and what happens to them.
    """

    repo_id: str
    languages: Sequence[Language] | None
    private: bool | None
    revision: str | None
    commit_message: str | None
    create_pr: bool
    access: Access
    others: Others = field(default_factory=Others)


@dataclass(frozen=True)
class _Change:
    """What a commit does to a repository.

    Args:
        family: The manifest afterwards.
        added: The files of the folder that are added or replaced.
        removed: The files of the repository that are deleted.
    """

    family: Family
    added: Sequence[str]
    removed: Sequence[str] = ()


def push_family(push: Push, save: Callable[[Path], None]) -> CommitInfo:
    """Make one commit of what `save` writes, so that the repository is never half a family.

    Args:
        push: Where to.
        save: Writes the family, with the languages to push, into a folder.

    Returns:
        The commit.

    Raises:
        HubError: If the repository cannot be written, has moved, or holds another family.
    """
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch:
        folder = Path(scratch) / "family"
        save(folder)

        family = public_family(read_manifest(folder))
        check_base(family)
        write_manifest(folder, family.to_json())

        with speaking_of(push.repo_id, push.access.token, writing=True):
            api = push.access.api()
            remote = _open(api, push, Path(scratch) / "cache")
            change = _change(folder, family, push, remote)

            _write_card(folder, change.family, remote)

            # `parent_commit` makes the Hub refuse the commit if somebody has pushed since `_open`.
            return api.create_commit(
                remote.repo_id,
                [
                    *(CommitOperationDelete(path) for path in change.removed),
                    *additions(folder, change.added, repo_id=remote.repo_id),
                ],
                commit_message=push.commit_message or _message(change.family, push.languages),
                revision=push.revision,
                parent_commit=remote.commit,
                create_pr=push.create_pr,
            )


def check_base(family: Family) -> None:
    """Refuse a base that others could not load.

    Raises:
        HubError: If the family is over a frozen base that is not on the Hub.
    """
    base = family.base_model
    if base and (Path(base).is_dir() or not is_repo_id(base)):
        raise HubError(
            "A published family over a frozen base must name a repository on the Hub. Found the"
            f" folder {base!r}, which others do not have. Publish the base, load it by its name"
            " there, and push again."
        )


def check_no_language_is_lost(repo_id: str, languages: Sequence[Language], access: Access) -> None:
    """Refuse a repository with languages that a model lacks which is going to replace the family.

    Args:
        repo_id: The repository.
        languages: The languages of the model.
        access: How the repository is reached.

    Raises:
        HubError: If it has such languages, or cannot be read.
    """
    with (
        speaking_of(repo_id, access.token, writing=True),
        tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch,
    ):
        published = read_remote(access.api(), repo_id, replace(access, cache_dir=scratch)).family

    lost = [key for key in published.languages if key not in languages] if published else []
    if lost:
        raise HubError(
            "A Trainer publishes a whole family, with the languages of the family that it replaces."
            f" Found {repo_id!r} with {lost}, which this model lacks. Train with"
            " `push_to_hub=False` and use `model.push_to_hub(...)`, which keeps or deletes them; or"
            " load these languages as well; or pass another `hub_model_id`."
        )


def published_card(repo_id: str, revision: str | None, token: str | bool | None) -> str | None:
    """The model card of a repository; `None` if there is none."""
    with (
        speaking_of(repo_id, token, writing=True),
        tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch,
    ):
        access = Access(revision, token, cache_dir=scratch)
        return read_remote(access.api(), repo_id, access).text(CARD)


def write_card_file(
    folder: Path,
    existing: str | None,
    *,
    repo_id: str,
    metadata: Mapping[str, str | list[str]],
    access: Access | None = None,
) -> None:
    """Write the model card of a saved family into its folder.

    Args:
        folder: The folder.
        existing: The present card, whose own text is kept.
        repo_id: The repository.
        metadata: Further metadata, such as a licence; tags join those of the card.
        access: How the Hub is asked for the licence of the base; `None` not to ask.

    Raises:
        HubError: If the folder has links to files; nothing is written through a link.
    """
    check_no_links(folder, [])
    family = read_manifest(folder)
    files = card_files(folder, family)
    if access is not None and "license" not in metadata:
        family = with_base_license(family, existing, access)

    card = ModelCard(card_text(family, existing, repo_id=repo_id, files=files))

    for name, value in metadata.items():
        if name != "tags":
            card.data[name] = value
            continue

        # The Hub accepts a single tag as a string.
        added = value
        if isinstance(added, str):
            added = [added]
        card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *added]))

    write_text(folder / CARD, str(card))


def _write_card(folder: Path, family: Family, remote: Remote) -> None:
    """Write the card of what a repository is going to hold."""
    files, existing = card_files(folder, family, remote.files), remote.text(CARD)
    family = with_base_license(family, existing, remote.access)
    text = card_text(family, existing, repo_id=remote.repo_id, files=files)
    (folder / CARD).write_text(text, encoding="utf-8")


def _open(api: HfApi, push: Push, cache: Path) -> Remote:
    """What the repository holds now; the repository and the branch are created if missing."""
    # The answer has the full name: an owner may be missing from that of the user.
    repo_id = api.create_repo(push.repo_id, private=push.private, exist_ok=True).repo_id

    # A pull request starts from an existing branch, and `refs/` are no branches.
    if push.revision and not push.create_pr and not push.revision.startswith("refs/"):
        api.create_branch(repo_id, branch=push.revision, exist_ok=True)

    access = replace(push.access, revision=push.revision, cache_dir=str(cache))
    return read_remote(api, repo_id, access)


def _change(folder: Path, family: Family, push: Push, remote: Remote) -> _Change:
    """What to commit, given what the repository holds."""
    published, languages = remote.family, push.languages
    if published is None:
        return _Change(family, files_to_publish(folder))

    if languages is None:
        whole = with_others(folder, family, push.others, remote, published)
        write_manifest(folder, whole.to_json())
        removed = _stale(whole, published, remote, push.others)
        return _Change(whole, files_to_publish(folder), removed)

    check_same_family(folder, family, remote, published)
    joined = _joined(family, published)
    write_manifest(folder, joined.to_json())

    # θ is the same, so nothing of it is uploaded, nor is an adapter that all languages share.
    added = [MANIFEST, CARD]
    if not joined.one_adapter_for_all:
        folders = joined.adapters(languages)
        added += [path for path in files_to_publish(folder) if path.split("/")[0] in folders]
    if joined.details.get("gradient_cosine_picture") == COSINES and COSINES not in remote.files:
        added.append(COSINES)

    return _Change(joined, added)


def _joined(family: Family, published: Family) -> Family:
    """The manifest of a published family with further languages."""
    # What was measured of a language that is replaced holds no more.
    stay = [key for key in published.languages if key not in family.languages]
    details = published.details
    if len(stay) < len(published.languages):
        details = details_of(details, stay)

    # θ stays as it is published; the languages that are pushed replace their own files.
    return replace(
        published,
        languages=joined_languages(published.languages, family.languages),
        files=_replaced(family, published.files, family.files),
        hashes=_replaced(family, published.hashes, family.hashes),
        details=merge_details(details, family.details),
    )


def _replaced(
    family: Family, published: Mapping[str, _Entry], new: Mapping[str, _Entry]
) -> dict[str, _Entry]:
    """Entries for published files, in which the languages of a family have those of their own."""
    kept = {path: entry for path, entry in published.items() if not _is_of(family, path)}
    return kept | {path: entry for path, entry in new.items() if _is_of(family, path)}


def _is_of(family: Family, path: str) -> bool:
    """Whether a file belongs to a language of the family, not to θ."""
    return path.split("/")[0] in family.languages


def _stale(family: Family, published: Family, remote: Remote, others: Others) -> list[str]:
    """The published files that are no part of the new family; a language is never lost."""
    gone = [key for key in published.languages if key not in family.languages]
    lost = others.lost(published, family.languages)
    if lost and others.choice != "drop":
        raise HubError(
            "A whole family must hold the languages of the family that it replaces. Found"
            f" {remote.repo_id!r} with {lost}, which this model lacks. Use `push_to_hub(...,"
            f" languages={list(family.languages)})` to add or replace only these, load the others"
            " as well, push to another repository, or pass"
            ' `other_languages="drop"` to delete them.'
        )

    # Left behind, an index would make transformers look for shards that are gone.
    stale = [path for path in published.files if path not in family.files]
    stale += [f"{key}/{ADAPTER_CONFIG}" for key in published.adapters(gone) if key in gone]
    if "model.safetensors" in family.files:
        stale.append("model.safetensors.index.json")

    return [path for path in stale if path in remote.files]


def _message(family: Family, languages: Sequence[Language] | None) -> str:
    if languages:
        return f"Add {', '.join(languages)}"

    return f"Family of {', '.join(family.languages)}"

"""Scores of a saved or published family, recorded in its manifest and on its card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitInfo

from hf_meta_adapters._typing import JsonObject
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._card import CARD, card_text
from hf_meta_adapters.hub._card_files import card_files
from hf_meta_adapters.hub._remote import read_remote
from hf_meta_adapters.hub.client import Access, speaking_of
from hf_meta_adapters.hub.links import check_no_links, cut_hard_links
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest, write_manifest
from hf_meta_adapters.hub.public import additions
from hf_meta_adapters.hub.record import with_scores
from hf_meta_adapters.results.files import write_text

__all__ = ["publish_scores", "record_scores"]


def record_scores(folder: Path, scores: Sequence[JsonObject], measured: Family) -> None:
    """Add scores to the manifest and the card in the folder of a family.

    Scores of the same task by the same metric are replaced, language by language.

    Args:
        folder: The folder.
        scores: What `LanguageScores.to_dict()` returns, for each task.
        measured: The manifest of the family whose scores these are.

    Raises:
        HubError: If the folder holds other weights by now, or links to files.
    """
    check_no_links(folder, [])
    cut_hard_links(folder, [])
    family = _scored(folder, read_manifest(folder), scores, measured)

    existing = None
    if (folder / CARD).is_file():
        existing = (folder / CARD).read_text(encoding="utf-8")
    # the card first: a family whose manifest has scores has them on its card
    write_text(folder / CARD, card_text(family, existing, files=card_files(folder, family)))
    write_manifest(folder, family.to_json())


def publish_scores(
    repo_id: str, scores: Sequence[JsonObject], measured: Family, access: Access
) -> CommitInfo:
    """Add scores to the manifest and the card of a published family, by one commit.

    Args:
        repo_id: The repository.
        scores: As for `record_scores`.
        measured: As for `record_scores`.
        access: How the repository is reached.

    Returns:
        The commit.

    Raises:
        HubError: If the repository cannot be written, or holds other weights by now.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        speaking_of(repo_id, access.token, writing=True),
    ):
        api = access.api()
        remote = read_remote(api, repo_id, replace(access, cache_dir=str(Path(scratch) / "cache")))
        if remote.family is None:
            raise HubError(
                f"Scores are added to a family. Found no `{MANIFEST}` in {repo_id!r}. Name a"
                " repository that `push_to_hub` wrote."
            )

        folder = Path(scratch) / "family"
        folder.mkdir()
        family = _scored(repo_id, remote.family, scores, measured)
        files = card_files(remote.fetch(MANIFEST).parent, family, remote.files)
        text = card_text(family, remote.text(CARD), repo_id=repo_id, files=files)
        write_text(folder / CARD, text)
        write_manifest(folder, family.to_json())

        # as for a family: the Hub refuses the commit if somebody has pushed since
        return api.create_commit(
            repo_id,
            additions(folder, [MANIFEST, CARD], repo_id=repo_id),
            commit_message=f"Scores on {', '.join(str(table['task']) for table in scores)}",
            revision=access.revision,
            parent_commit=remote.commit,
        )


def _scored(
    place: Path | str, family: Family, scores: Sequence[JsonObject], measured: Family
) -> Family:
    """The manifest with the scores.

    Raises:
        HubError: If the family is not the one that was measured.
    """
    if family.hashes != measured.hashes or family.files != measured.files:
        raise HubError(
            "Scores are recorded with the weights that they were measured on. Found that the family"
            f" in {str(place)!r} has been saved again since it was loaded. Score it once more."
        )
    return replace(family, details=with_scores(family.details, scores))

"""The languages of a saved family that a model lacks: what becomes of them when it is saved over.

A language that was not loaded is not a language that was removed. Its adapter stays as long as θ is
the one that it was trained with, bit for bit; with any other θ the user has to choose.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, HubError, LanguageError, check_languages
from hf_meta_adapters.hub._same_family import Place, family_differences, listed
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest
from hf_meta_adapters.hub.record import details_of, merge_details

OtherLanguages: TypeAlias = Literal["keep", "drop"]
"""What happens to languages that are in the family to be replaced and not in the model."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Others:
    """The languages that a model could have and does not.

    Args:
        left_out: Those of the saved family that `from_pretrained(..., languages=...)` did not load.
        removed: Those that `remove_language` took out of the model.
        choice: What the user wants to happen to all but the removed ones; `None` to keep what was
            left out if θ is the same, and to refuse if it is not.
    """

    left_out: frozenset[Language] = frozenset()
    removed: frozenset[Language] = frozenset()
    choice: OtherLanguages | None = None

    def without(self, language: Language) -> Others:
        """The same after a language has been removed from the model."""
        return replace(self, removed=self.removed | {language})

    def chosen(self, choice: OtherLanguages | None) -> Others:
        """The same with the choice of the user.

        Raises:
            ConfigurationError: If it is none of the choices.
        """
        if choice not in (None, "keep", "drop"):
            raise ConfigurationError(
                '`other_languages` must be "keep", "drop" or None. Found'
                f" {choice!r}. Leave it out to keep the languages that were not loaded as long as θ"
                " is the same."
            )
        return replace(self, choice=choice)

    def lost(self, before: Family, languages: Collection[Language]) -> list[Language]:
        """The languages that a family loses if a model with `languages` replaces it.

        Args:
            before: The family.
            languages: The languages of the model.
        """
        known = {*languages, *self.removed}
        return [key for key in before.languages if key not in known]

    def kept(self, before: Family, family: Family) -> list[Language]:
        """The languages that stay in a family that a model replaces.

        Args:
            before: The family.
            family: The manifest of the model.
        """
        lost = self.lost(before, family.languages)
        is_replaced = self.choice is None and not self.left_out.intersection(lost)
        return [] if self.choice == "drop" or is_replaced else lost

    def at_stake(self, folder: Path, languages: Collection[Language]) -> list[Language]:
        """The languages in a folder for whose sake a model with another θ is not saved there.

        Args:
            folder: The folder.
            languages: The languages of the model.
        """
        before = saved_family(folder)
        if before is None:
            return []

        lost = self.lost(before, languages)
        return lost if self.left_out.intersection(lost) else []


def saved_family(folder: Path) -> Family | None:
    """The manifest in a folder; `None` where there is none that can be read."""
    if not (folder / MANIFEST).is_file():
        return None

    try:
        return read_manifest(folder)
    except HubError:
        return None


def with_others(
    folder: Path, family: Family, others: Others, place: Place, before: Family
) -> Family:
    """The manifest of a model together with the languages that stay in the family it replaces.

    Args:
        folder: Where the model has just been written.
        family: Its manifest, with sizes and checksums.
        others: The languages that it lacks.
        place: The place of the family.
        before: The manifest there.

    Returns:
        The manifest, with the files of the languages that stay.

    Raises:
        HubError: If these languages cannot stay, because something that they need differs.
    """
    kept = others.kept(before, family)
    if not kept:
        return family

    differences = family_differences(folder, family, place, before, theta=False)
    theta: Sequence[str] = []
    if not differences:
        theta = family_differences(folder, family, place, before)

    if differences or (theta and others.choice != "keep"):
        raise _unlike(place.name, kept, [*differences, *theta])

    _logger.warning("Kept in %s, which this model lacks: %s.", place.name, ", ".join(kept))

    # What was measured with another θ holds no more, of whichever language.
    details = dict(family.details)
    if not theta:
        details = merge_details(details_of(before.details, kept), details)

    own = family.adapters(kept)
    files = {path: size for path, size in before.files.items() if path.split("/")[0] in own}
    hashes = {path: text for path, text in before.hashes.items() if path.split("/")[0] in own}
    return replace(
        family,
        languages=joined_languages(before.languages, family.languages, without=others.removed),
        files={**files, **family.files},
        hashes={**hashes, **family.hashes},
        details=details,
    )


def joined_languages(
    before: Sequence[Language], added: Sequence[Language], without: Collection[Language] = ()
) -> tuple[Language, ...]:
    """The languages of a family and those of a model, in the order of the family.

    Args:
        before: The languages of the family.
        added: The languages of the model.
        without: Those that go.

    Raises:
        HubError: If two keys differ by letter case alone.
    """
    stay = [key for key in before if key in added or key not in without]
    try:
        return check_languages([*stay, *(key for key in added if key not in stay)])
    except LanguageError as error:
        raise HubError(
            f"Languages of one family must have keys of their own. {error} Rename the new one"
            " before you save or push it."
        ) from error


def _unlike(place: str, kept: Sequence[Language], differences: Sequence[str]) -> HubError:
    return HubError(
        "A language that was not loaded stays in a family if the base, θ and the kind of adapter"
        f" are those that it was trained with. Found {list(kept)} in {place!r}, which this model"
        f" lacks, and that the model differs: {listed(differences)}. Load all languages before you"
        ' change θ; or save to another place; or pass `other_languages="drop"` to delete them,'
        ' `other_languages="keep"` to keep them next to another θ.'
    )

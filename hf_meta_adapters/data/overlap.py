"""No text has two roles: the check of data whose roles the user has given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._digest import digests
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.errors import DataError, check_languages


def check_roles(
    train: Mapping[Language, Any],
    meta: Mapping[Language, Any] | None,
    selection: Mapping[Language, Any] | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> None:
    """Check that train and meta have the same languages, none of them empty, and that no row has two roles.

    Rows are equal if their digests are: near-duplicates pass, and so do equal rows of different
    languages. Streaming data cannot be compared without reading it, and is not.

    Args:
        train: Training data of each language.
        meta: Meta data of each language; `None` if there is none.
        selection: Selection data; of other languages, too (zero-shot), or of some only.
        columns: The columns in which rows are compared; `None` for `input_ids` if there are such,
            else all.

    Raises:
        DataError: If a language is missing or empty, or rows overlap; the message counts them and
            names a pair.
        LanguageError: If a language key is malformed.

    Example:
        >>> check_roles({"sw": ["moja", "mbili"]}, {"sw": ["tatu"]})
    """
    roles = {"train": train, "meta": meta or {}, "selection": selection or {}}
    if meta is not None:
        _check_same_languages(train, meta)
    for role, several in roles.items():
        for language in check_languages(several) if several or role == "train" else ():
            if size_of(several[language]) == 0:
                raise DataError(
                    f"The {role} data of {language!r} must hold examples. Found none. Leave the"
                    " language out."
                )
    for language in train:
        own = {role: several[language] for role, several in roles.items() if language in several}
        _check_overlap(
            language, {role: one for role, one in own.items() if size_of(one) is not None}, columns
        )


def _check_same_languages(train: Mapping[Language, Any], meta: Mapping[Language, Any]) -> None:
    for here, there, missing in (
        ("train", "meta", [key for key in train if key not in meta]),
        ("meta", "train", [key for key in meta if key not in train]),
    ):
        if missing:
            raise DataError(
                f"Train and meta data must be of the same languages. Found {missing} in {here}"
                f" alone. Add the {there} data of {missing}, leave the language out, or give no"
                " meta data to have it split off."
            )


def _check_overlap(
    language: Language, roles: Mapping[str, Any], columns: Sequence[str] | None
) -> None:
    if len(roles) < 2:
        return
    first: dict[bytes, tuple[str, int]] = {}
    for role, dataset in roles.items():
        twice = []
        for row, mark in enumerate(digests(dataset, f"{role} {language}", columns)):
            other, there = first.setdefault(mark, (role, row))
            if other != role:
                twice.append((row, other, there))
        if twice:
            row, other, there = twice[0]
            raise DataError(
                f"A text must have one role only. Found {len(twice)} rows of the {role} data of"
                f" {language!r} in other roles too, the first in row {row} of {role} and row"
                f" {there} of {other}. Remove them, or give one dataset and let `split_roles`"
                " split it."
            )

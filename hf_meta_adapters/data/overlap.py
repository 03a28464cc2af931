"""No text has two roles: the check of data whose roles the user assigned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._row_digests import first_equal, row_digests
from hf_meta_adapters.data.language_datasets import MapStyleDataset, is_map_style, size_of
from hf_meta_adapters.errors import DataError, check_languages


def check_roles(
    train: Mapping[Language, object],
    meta: Mapping[Language, object] | None,
    selection: Mapping[Language, object] | None = None,
    *,
    columns: Sequence[str] | None = None,
    same_languages: bool = True,
) -> None:
    """Check that train and meta have the same languages, all with rows, and no row has two roles.

    Rows are equal if their digests are: near-duplicates pass, and so do equal rows of different
    languages. Streaming data cannot be compared without reading it, and is not.

    Args:
        train: Training data of each language.
        meta: Meta data of each language; `None` if there is none.
        selection: Selection data, possibly of other languages (zero-shot), or of some only.
        columns: The columns in which rows are compared; `None` for `input_ids` if rows have them,
            else all.
        same_languages: Whether train and meta must have the same languages.

    Raises:
        DataError: If a language is missing or empty, or rows overlap; the message counts them and
            names a pair.
        LanguageError: If a language key is malformed.

    Example:
        >>> check_roles({"sw": ["moja", "mbili"]}, {"sw": ["tatu"]})
    """
    if meta is not None and same_languages:
        _check_same_languages(train, meta)

    roles = {"train": train, "meta": meta or {}, "selection": selection or {}}
    for role, datasets in roles.items():
        if datasets or role == "train":
            check_languages(datasets)
            _check_not_empty(role, datasets)

    # Language by language: a sentence may well be the same in two of them.
    for language in train:
        comparable: dict[str, MapStyleDataset] = {}
        for role, datasets in roles.items():
            dataset = datasets.get(language)
            if is_map_style(dataset):
                comparable[role] = dataset

        _check_overlap(language, comparable, columns)


def _check_not_empty(role: str, datasets: Mapping[Language, object]) -> None:
    for language, dataset in datasets.items():
        if size_of(dataset) == 0:
            raise DataError(
                f"The {role} data of {language!r} must hold examples. Found none. Remove the"
                " language."
            )


def _check_same_languages(
    train: Mapping[Language, object], meta: Mapping[Language, object]
) -> None:
    only_in_train = [key for key in train if key not in meta]
    only_in_meta = [key for key in meta if key not in train]

    for here, there, missing in (
        ("train", "meta", only_in_train),
        ("meta", "train", only_in_meta),
    ):
        if missing:
            raise DataError(
                f"Train and meta data must have the same languages. Found {missing} in {here}"
                f" alone. Add the {there} data of {missing}, remove these languages, or pass no"
                " meta data: it is then split off the training data."
            )


def _check_overlap(
    language: Language, roles: Mapping[str, MapStyleDataset], columns: Sequence[str] | None
) -> None:
    if len(roles) < 2:
        return

    names = list(roles)
    found = [row_digests(roles[role], f"{role} {language}", columns) for role in names]
    starts = np.cumsum([0, *map(len, found)])
    role_of = np.repeat(np.arange(len(names)), np.diff(starts))

    # A row that is equal to several others is reported with the first of them.
    first = first_equal(np.concatenate(found))
    overlaps = np.flatnonzero(role_of[first] != role_of)
    if not len(overlaps):
        return

    # Of the first role that has some.
    number = role_of[overlaps[0]]
    overlaps = overlaps[role_of[overlaps] == number]
    row, other = int(overlaps[0]), int(first[overlaps[0]])
    role, other_role = names[number], names[role_of[other]]
    raise DataError(
        f"A text must have only one role. Found {len(overlaps)} rows of the {role} data of"
        f" {language!r} that have another role as well, the first in row {row - starts[number]} of"
        f" {role} and row {other - starts[role_of[other]]} of {other_role}. Remove them, or pass"
        " one dataset and let `split_roles` split it."
    )


def check_distinct(
    train: Mapping[Language, object], *, columns: Sequence[str] | None = None
) -> None:
    """Check that no two training rows of a language are equal, so that each may have either role.

    Rows are equal as in `check_roles`.

    Args:
        train: Training data of each language; streams are not read.
        columns: The columns in which rows are compared, as in `check_roles`.

    Raises:
        DataError: If some are; the message counts them and names a pair.

    Example:
        >>> check_distinct({"sw": ["moja", "mbili"]})
    """
    for language, dataset in train.items():
        if not is_map_style(dataset):
            continue

        first = first_equal(row_digests(dataset, f"train {language}", columns))
        copies = np.flatnonzero(first != np.arange(len(first)))
        if len(copies):
            row = copies[0]
            raise DataError(
                "Where meta rows are training rows, a step could train on a text and validate on"
                f" its copy. Found {len(copies)} rows of {language!r} that are copies of earlier"
                f" ones, the first in row {row}, equal to row {first[row]}. Remove the copies, or"
                " pass no `meta_dataset`: copies then get the same role."
            )

"""Columns of a dataset under any of their usual names, and class labels as strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError

__all__ = ["column", "label_column"]


def column(dataset: Rows, names: Sequence[str], language: Language | None = None) -> list[Any]:
    """Return the values of the first of the named columns that the dataset has.

    Args:
        dataset: The examples.
        names: The names, the preferred one first.
        language: The language of the examples, for the message.

    Returns:
        One value for each example.

    Raises:
        DataError: If there is no such column, or no example.
    """
    name = _column_name(dataset, names, language)
    return [row[name] for row in dataset]


def label_column(
    dataset: Rows, names: Sequence[str], language: Language | None = None
) -> list[Any]:
    """Return labels as strings: ids of a `datasets.ClassLabel` column are replaced by its names.

    Args:
        dataset: The examples.
        names: The names that the column may have.
        language: The language of the examples, for the messages.

    Returns:
        A string or a list of strings for each example.

    Raises:
        DataError: If there is no such column, or it holds numbers without names.
    """
    name = _column_name(dataset, names, language)
    classes = _class_names(dataset, name)

    def as_string(label: str | int) -> str:
        if isinstance(label, str):
            return label

        # −1 stands for a missing label in many datasets; Python would read it from the end.
        if 0 <= label < len(classes):
            return classes[label]

        limit = f", which has {len(classes)} classes" if classes else ""
        raise DataError(
            f"Labels must be strings, or ids of a `datasets.ClassLabel` column. Found {label!r} in"
            f" column {name!r}{_of(language)}{limit}. Cast the column, for example with"
            f' `dataset.cast_column("{name}", ClassLabel(names=[...]))`, and remove examples'
            " without a label."
        )

    labels: list[str | list[str]] = []
    for value in (row[name] for row in dataset):
        if isinstance(value, str | int):
            labels.append(as_string(value))
        else:
            labels.append([as_string(label) for label in value])

    return labels


def _class_names(dataset: Rows, name: str) -> Sequence[str]:
    """Return the names of the classes of a column; none where it is no `ClassLabel`."""
    if not isinstance(dataset, datasets.Dataset):
        return ()

    # The feature of a column of lists holds that of their items under this name, whatever its type.
    feature = dataset.features[name]
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else ()


def _column_name(dataset: Rows, names: Sequence[str], language: Language | None) -> str:
    if not len(dataset):
        raise DataError(
            f"A dataset must hold at least one example. Found an empty one{_of(language)}. Remove"
            " it."
        )

    # Rows of a list may differ in their columns; the first one stands for all.
    present = sorted(dataset[0])
    for name in names:
        if name in present:
            return name

    raise DataError(
        f"The examples{_of(language)} must have a column {' or '.join(map(repr, names))}. Found"
        f" {present}. Rename one, for example with"
        f' `dataset.rename_column("{present[0]}", "{names[0]}")`.'
    )


def _of(language: Language | None) -> str:
    return "" if language is None else f" of language {language!r}"

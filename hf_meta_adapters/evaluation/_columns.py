"""Columns of a dataset by the names that they have in the usual datasets, and class labels as strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError

__all__ = ["column", "label_column"]


def column(dataset: Rows, names: Sequence[str], language: Language | None = None) -> list[Any]:
    """Return the values of the first of the named columns that there is.

    Args:
        dataset: The examples.
        names: The names, the preferred one first.
        language: The language of the examples, for the message.

    Returns:
        One value for each example.

    Raises:
        DataError: If there is no such column, or no example.
    """
    return _named(dataset, names, language)[1]


def label_column(
    dataset: Rows, names: Sequence[str], language: Language | None = None
) -> list[Any]:
    """Return labels, or lists of them, as strings: ids of a `datasets.ClassLabel` column are replaced by its names.

    Args:
        dataset: The examples.
        names: The names that the column may have.
        language: The language of the examples, for the messages.

    Returns:
        A string or a list of strings for each example.

    Raises:
        DataError: If there is no such column, or it holds numbers without names.
    """
    name, values = _named(dataset, names, language)
    feature = (getattr(dataset, "features", None) or {}).get(name)
    classes = getattr(getattr(feature, "feature", feature), "names", None)

    def as_string(label: Any) -> str:
        if isinstance(label, str):
            return label
        if classes is None or not 0 <= label < len(classes):
            raise DataError(
                f"Labels must be strings, or ids of a `datasets.ClassLabel` column. Found {label!r}"
                f" in column {name!r}"
                f"{_of(language)}{f', which has {len(classes)} classes' if classes else ''}. Cast"
                " the column, for "
                f'example with `dataset.cast_column("{name}", ClassLabel(names=[...]))`, and leave'
                " out what has no "
                "label."
            )
        return str(classes[label])

    return [
        as_string(v) if isinstance(v, str | int) else [as_string(label) for label in v]
        for v in values
    ]


def _named(dataset: Rows, names: Sequence[str], language: Language | None) -> tuple[str, list[Any]]:
    if not len(dataset):
        raise DataError(
            f"A dataset must hold at least one example. Found an empty one{_of(language)}. Leave it"
            " out."
        )
    first: Mapping[str, Any] = dataset[0]
    name = next((name for name in names if name in first), None)
    if name is None:
        raise DataError(
            f"The examples{_of(language)} must have a column {' or '.join(map(repr, names))}. Found"
            f" {sorted(first)}. "
            f'Rename one, for example with `dataset.rename_column("{sorted(first)[0]}",'
            f' "{names[0]}")`.'
        )
    return name, [row[name] for row in dataset]


def _of(language: Language | None) -> str:
    return f" of language {language!r}" if language is not None else ""

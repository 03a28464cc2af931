"""One dataset that names the language of each row, as a dataset of each language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import datasets

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError, check_languages


def by_language_column(
    dataset: object, column: str = "language", *, languages: Iterable[Language] | None = None
) -> dict[str, object]:
    """Split data by a column that holds the language of each row.

    Args:
        dataset: A `datasets.Dataset`, a `datasets.IterableDataset`, or a `datasets.DatasetDict`,
            whose splits are taken one by one.
        column: The column: language keys, or a `ClassLabel` with such names.
        languages: The languages to take, in this order. Default: all, in the order of their names.
            A stream does not know its languages, so they must be named.

    Returns:
        Language → the rows of that language in their order, without the column. Of a
        `DatasetDict`: split → language → rows.

    Raises:
        DataError: If there is no such column, or no row of a language.
        ConfigurationError: If the data is of another type, or the languages of a stream are not
            named.
        LanguageError: If a value of the column is no language key.

    Example:
        >>> from hf_meta_adapters import by_language_column
        >>> rows = {"language": ["sw", "en", "sw"], "text": ["moja", "two", "tatu"]}
        >>> data = by_language_column(datasets.Dataset.from_dict(rows))
        >>> {language: part["text"][:] for language, part in data.items()}
        {'en': ['two'], 'sw': ['moja', 'tatu']}
    """
    if isinstance(dataset, Mapping):
        return {
            split: by_language_column(part, column, languages=languages)
            for split, part in dataset.items()
        }

    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise ConfigurationError(
            "`by_language_column` splits a `datasets.Dataset`, `IterableDataset` or `DatasetDict`."
            f" Found a `{type(dataset).__name__}`. Use for example"
            " `datasets.Dataset.from_list(rows)`."
        )

    columns = dataset.column_names
    if columns is not None and column not in columns:
        raise DataError(
            f"The language of each row must be in the column {column!r}. Found the columns"
            f' {columns}. Name it, for example `by_language_column(dataset, "{columns[0]}")`.'
        )

    if isinstance(dataset, datasets.Dataset):
        return _split_table(dataset, column, languages)
    return _split_stream(dataset, column, languages)


def _split_table(
    dataset: datasets.Dataset, column: str, languages: Iterable[Language] | None
) -> dict[Language, datasets.Dataset]:
    rows: dict[object, list[int]] = {}
    for row, value in enumerate(dataset[column]):
        rows.setdefault(value, []).append(row)

    named = _names(dataset, column)
    by_name = {_name(value, named): indices for value, indices in rows.items()}
    wanted = sorted(by_name, key=str) if languages is None else languages
    keys = check_languages(wanted)

    missing = [key for key in keys if key not in by_name]
    if missing:
        raise DataError(
            f"Every language must have rows. Found none of {missing} in the column {column!r},"
            f" which has {sorted(by_name, key=str)}. Correct `languages`, or the column."
        )

    kept = dataset.remove_columns(column)
    return {key: kept.select(by_name[key]) for key in keys}


def _split_stream(
    dataset: datasets.IterableDataset, column: str, languages: Iterable[Language] | None
) -> dict[Language, datasets.IterableDataset]:
    if languages is None:
        raise ConfigurationError(
            "A stream does not know its languages before it is read. Found an `IterableDataset`"
            " without `languages`. Name them, for example"
            f' `by_language_column(stream, "{column}", languages=["en", "sw"])`.'
        )

    named = _names(dataset, column)
    return {
        key: dataset.filter(partial(_is_of, column=column, key=key, named=named)).remove_columns(
            column
        )
        for key in check_languages(languages)
    }


def _is_of(
    row: Mapping[str, object], *, column: str, key: Language, named: Sequence[str] | None
) -> bool:
    return _name(row[column], named) == key


def _names(dataset: Any, column: str) -> Sequence[str] | None:
    """The names of the numbers in a column of classes; `None` for any other column."""
    feature = (dataset.features or {}).get(column)
    if isinstance(feature, datasets.ClassLabel):
        names: list[str] = feature.names
        return names
    return None


def _name(value: object, named: Sequence[str] | None) -> object:
    if named is not None and isinstance(value, int):
        return named[value]
    return value

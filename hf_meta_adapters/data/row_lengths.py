"""The lengths of the rows of a dataset, by which they can be grouped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Example, Role
from hf_meta_adapters.data.language_datasets import MapStyleDataset, is_map_style
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import DataError

Lengths: TypeAlias = Mapping[Role, Mapping[Language, NDArray[np.int64]]]
"""role → language → the length of each row, (n,)."""

_ROWS = 10_000  # read at once


def row_lengths(
    datasets: Mapping[Role, Mapping[Language, object]], *, column: str, tokens: str
) -> Lengths:
    """Find the length of every row: that in a column, or else the number of its tokens.

    A column of a `datasets.Dataset` is read alone, and lists in it are not. Of other data, and of
    a dataset that tokenizes its rows as they are read, every row is read once.

    Args:
        datasets: role → language → a map-style dataset.
        column: The column that holds lengths, in some datasets or in none.
        tokens: The column of tokens.

    Returns:
        The lengths.

    Raises:
        DataError: If a row has neither, or a dataset is a stream.

    Example:
        >>> rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [5]}, {"length": 9}]
        >>> row_lengths({"train": {"sw": rows}}, column="length", tokens="input_ids")
        {'train': {'sw': array([3, 1, 9])}}
    """
    lengths: dict[Role, dict[Language, NDArray[np.int64]]] = {}
    for role, by_language in datasets.items():
        for language, dataset in by_language.items():
            if not is_map_style(dataset):
                raise DataError(
                    "Rows can be grouped by length if any of them can be read at any time. Found"
                    f" the stream `{type(dataset).__name__}` as the {role} data of {language!r}."
                    " Leave the grouping out, or load the data, for example as a"
                    " `datasets.Dataset`."
                )

            where = f"the {role} rows of {language!r}"
            found = _of_table(dataset, column, tokens, where)
            if found is None:
                found = _of_rows(dataset, column, tokens, where)
            lengths.setdefault(role, {})[language] = found

    return lengths


def _of_table(
    dataset: MapStyleDataset, column: str, tokens: str, where: str
) -> NDArray[np.int64] | None:
    """The lengths of a table by its columns; `None` of other data."""
    if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom":
        return None

    names = [name for name in (column, tokens) if name in dataset.column_names]
    if not names:
        raise _without_lengths(dataset.column_names, column, tokens, where)

    parts = []
    table = dataset.with_format("arrow", columns=names[:1])
    for batch in table.iter(_ROWS):
        values = batch[names[0]]
        if names[0] != column:
            if not _is_list(values.type):
                raise _without_lengths(dataset.column_names, column, tokens, where)
            values = pc.list_value_length(values)

        if not pa.types.is_integer(values.type) or values.null_count:
            raise DataError(
                f"The lengths of rows must be whole numbers. Found `{names[0]}` of type"
                f" {values.type} with {values.null_count} empty entries in {where}. Pass the name"
                " of another column as `length_column_name`."
            )
        parts.append(values.to_numpy())

    return np.concatenate([*parts, np.empty(0)]).astype(np.int64)


def _of_rows(dataset: MapStyleDataset, column: str, tokens: str, where: str) -> NDArray[np.int64]:
    # Seeded: reading a row may draw random numbers, and all processes must find the same lengths.
    with seeded(0):
        found = [_length(dataset[row], column, tokens, where) for row in range(len(dataset))]
    return np.array(found, dtype=np.int64)


def _length(row: Example, column: str, tokens: str, where: str) -> int:
    if isinstance(row, Mapping) and column in row:
        return int(row[column])
    if isinstance(row, Mapping) and tokens in row:
        return len(row[tokens])

    names = sorted(row) if isinstance(row, Mapping) else type(row).__name__
    raise _without_lengths(names, column, tokens, where)


def _without_lengths(found: Collection[str], column: str, tokens: str, where: str) -> DataError:
    return DataError(
        f"Rows that are grouped by length must have `{tokens}`, or their length in a column"
        f" `{column}`. Found {found} in {where}. Tokenize the text, pass the name of the column as"
        " `length_column_name`, or leave the grouping out."
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)

"""Digests of rows: equal rows have equal digests, whatever container their values come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from hf_meta_adapters.errors import DataError

_LONG = 100_000  # rows above which hashing takes long enough to show a progress bar


def digest(row: Any, columns: Sequence[str] | None = None) -> bytes:
    """16 bytes that depend on the content of a row alone: BLAKE2b of the row as JSON.

    A tensor, an array, a tuple and a list of the same numbers are equal, and so is a column that is
    `None` to one that is not there.

    Args:
        row: A mapping of columns, a text, a list of token ids.
        columns: The columns that count; `None` for `input_ids` if the row has them, else for all.

    Returns:
        The digest.

    Raises:
        DataError: If a column is not there, or holds something without a value to compare.

    Example:
        >>> digest({"input_ids": [5, 6], "labels": [0, 1]}) == digest({"input_ids": (5, 6)})
        True
    """
    if isinstance(row, Mapping):
        row = {name: row[name] for name in _columns(row, columns) if row[name] is not None}
    return hashlib.blake2b(
        json.dumps(row, sort_keys=True, default=_plain).encode("ascii"), digest_size=16
    ).digest()


def digests(dataset: Any, name: str, columns: Sequence[str] | None = None) -> Iterator[bytes]:
    """The digest of every row of a map-style dataset, in order, with a progress bar if there are many."""
    rows: Iterable[Any] = (
        dataset if hasattr(dataset, "__iter__") else (dataset[row] for row in range(len(dataset)))
    )
    bar = tqdm(rows, desc=f"hashing {name}", total=len(dataset), disable=len(dataset) <= _LONG)
    return (digest(row, columns) for row in bar)


def _columns(row: Mapping[str, Any], columns: Sequence[str] | None) -> Sequence[str]:
    if columns is None:
        return ["input_ids"] if "input_ids" in row else list(row)
    missing = [name for name in columns if name not in row]
    if missing:
        raise DataError(
            f"Every row must have the columns {list(columns)}. Found a row of {list(row)}. Add them"
            " or leave it out."
        )
    return columns


def _plain(value: Any) -> Any:
    """A value that JSON does not know, in types that it does."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise DataError(
        "Rows are compared by their texts and numbers. Found a value of type"
        f' `{type(value).__name__}`. Name the columns that count, for example `columns=["text"]`.'
    )

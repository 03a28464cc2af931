"""Digests of rows: equal rows have equal digests, whatever container their values come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from hf_meta_adapters.data.key import Example
from hf_meta_adapters.errors import DataError

DIGEST_BYTES = 16
"""The size of a digest."""


@runtime_checkable
class _ArrayLike(Protocol):
    """Tensors, arrays and numpy's scalars."""

    def tolist(self) -> object: ...


@runtime_checkable
class _DateLike(Protocol):
    """Dates and times."""

    def isoformat(self) -> str: ...


def digest(row: Example, columns: Sequence[str] | None = None) -> bytes:
    """Compute 16 bytes that depend on the content of a row alone: BLAKE2b of the row as JSON.

    A tensor, an array, a tuple and a list of the same numbers are equal, and a column that is
    `None` equals one that is missing.

    Args:
        row: A mapping of columns, a text, a list of token ids.
        columns: The columns that count; `None` for `input_ids` if the row has them, else for all.

    Returns:
        The digest.

    Raises:
        DataError: If a column is missing, or holds something without a value to compare.

    Example:
        >>> digest({"input_ids": [5, 6], "labels": [0, 1]}) == digest({"input_ids": (5, 6)})
        True
    """
    return hashlib.blake2b(text_of(row, columns), digest_size=DIGEST_BYTES).digest()


def text_of(row: Example, columns: Sequence[str] | None = None) -> bytes:
    """Return what `digest` hashes, with the same arguments: the row as JSON, in ASCII."""
    if isinstance(row, Mapping):
        # `datasets` fills columns that a row lacks with `None`.
        row = {name: row[name] for name in _columns(row, columns) if row[name] is not None}

    return json.dumps(row, sort_keys=True, default=_plain).encode("ascii")


def _columns(row: Mapping[str, object], columns: Sequence[str] | None) -> Sequence[str]:
    if columns is None:
        # Tokens alone: masks and ids of the same text may differ between two datasets.
        return ["input_ids"] if "input_ids" in row else list(row)

    missing = [name for name in columns if name not in row]
    if missing:
        raise DataError(
            f"Every row must have the columns {list(columns)}. Found a row of {list(row)}. Add the"
            " missing columns or remove the row."
        )

    return columns


def _plain(value: object) -> object:
    """Return a value that JSON does not know, in types that it does."""
    if isinstance(value, _ArrayLike):
        return value.tolist()
    if isinstance(value, _DateLike):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}

    raise DataError(
        "Rows are compared by their texts and numbers. Found a value of type"
        f' `{type(value).__name__}`. Name the columns that count, for example `columns=["text"]`.'
    )

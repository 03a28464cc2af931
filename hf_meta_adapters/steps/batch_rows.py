"""Some rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["take_rows"]


def take_rows(entry: object, rows: Sequence[int], size: int) -> object:
    """Take some rows of an entry of a batch; an entry that has no rows stays whole.

    Args:
        entry: A tensor, a list, or anything else.
        rows: The numbers of the rows.
        size: The rows of the batch.

    Returns:
        The entry of these rows.
    """
    if isinstance(entry, Tensor):
        if entry.dim() and len(entry) == size:
            return entry[list(rows)]
        return entry

    if isinstance(entry, list | tuple) and len(entry) == size:
        return [entry[row] for row in rows]
    return entry

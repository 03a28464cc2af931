"""Sums over processes, taken at the points where the outer step needs quantities of the global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_meta_adapters.meta._vectors import Vector


class Reduce:
    """In-place sums over processes, each fused into one message per dtype.

    Args:
        all_reduce: Sums one flat tensor over all processes in place; `None` on a single process.
    """

    def __init__(self, all_reduce: Callable[[Tensor], None] | None = None) -> None:
        self._all_reduce = all_reduce

    def __call__(self, entries: Sequence[Tensor | None]) -> None:
        """Replace every tensor by its sum over processes; all processes pass the same shapes in the same order."""
        if self._all_reduce is None:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for entry in entries:
            if entry is not None:
                by_dtype.setdefault(entry.dtype, []).append(entry)
        for group in by_dtype.values():
            flat = torch.cat([entry.reshape(-1) for entry in group])
            self._all_reduce(flat)
            pieces = flat.split([entry.numel() for entry in group])
            torch._foreach_copy_(group, [piece.view_as(entry) for piece, entry in zip(pieces, group, strict=True)])

    def summed(self, vector: Vector) -> Vector:
        """The sum over processes, as new tensors where there are several processes."""
        if self._all_reduce is None:
            return vector
        copy = [None if entry is None else entry.clone() for entry in vector]
        self(copy)
        return copy

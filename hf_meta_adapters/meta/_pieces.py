"""Vectors in pieces, so small that several passes over one find it in the cache."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import local

Constants = TypeVar("Constants", bound=Hashable)

_ENTRIES = 1 << 22
"""How many entries of parameters are computed with at once."""

_ENTRIES_ON_CPU = 1 << 17
"""The same on a CPU: a dozen passes over them find them in the cache."""


@dataclass
class Piece(Generic[Constants]):
    """Parts of parameters with the same constants, for which fused kernels compute at once.

    Args:
        constants: What they have in common.
        positions: The parameter of each part.
        columns: What belongs to the parameters, one list for each kind: parts as flat views.
        size: How many entries the parts of one list have together.
    """

    constants: Constants
    positions: list[int] = field(default_factory=list)
    columns: list[list[Tensor]] = field(default_factory=list)
    size: int = 0

    def add(self, position: int, parts: Sequence[Tensor]) -> None:
        """Add a part of each tensor of a parameter."""
        if not self.columns:
            self.columns = [[] for _ in parts]

        self.positions.append(position)
        for column, part in zip(self.columns, parts, strict=True):
            column.append(part)
        self.size += parts[0].numel()


def pieces(
    constants: Mapping[int, Constants], rows: Mapping[int, Sequence[Tensor]]
) -> Iterator[Piece[Constants]]:
    """Divide the tensors of parameters into pieces.

    Args:
        constants: Position of a parameter → what it must have in common with others to share a
            kernel. Parameters on different devices or of different dtypes share none.
        rows: Position → tensors of the shape of that parameter. Results are written to those of
            `room`, which are contiguous.

    Yields:
        The pieces.
    """
    alike: dict[Hashable, list[int]] = {}
    for position, row in rows.items():
        kind = (row[0].device, row[0].dtype, constants[position])
        alike.setdefault(kind, []).append(position)

    for positions in alike.values():
        common = constants[positions[0]]
        piece = Piece(common)
        for position in positions:
            row = rows[position]
            limit = _ENTRIES if row[0].is_cuda else _ENTRIES_ON_CPU

            for parts in zip(*(_parts(entry, limit) for entry in row), strict=True):
                if piece.size + parts[0].numel() > limit and piece.size:
                    yield piece
                    piece = Piece(common)
                piece.add(position, parts)

        yield piece


def room(entry: Tensor) -> Tensor:
    """Memory for a result, whose flat form is a view."""
    return torch.empty_like(entry, memory_format=torch.contiguous_format)


def _parts(entry: Tensor, limit: int) -> list[Tensor]:
    """What this process holds as short vectors, in the same memory if that is contiguous."""
    flat = local(entry).reshape(-1)
    return [flat[start : start + limit] for start in range(0, max(len(flat), 1), limit)]

"""Sums over processes, taken at the points where the outer step needs quantities of the global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import Vector, is_sharded


class Reduce:
    """In-place sums over processes, fused into one message per dtype.

    A parameter may have no gradient on one process and one on another (an expert that no token was
    routed to). It counts as zero there, and has a gradient everywhere if it has one anywhere.

    Args:
        all_reduce: Sums one flat tensor over all processes in place; `None` on a single process.
    """

    def __init__(self, all_reduce: Callable[[Tensor], None] | None = None) -> None:
        self._all_reduce = all_reduce

    def __call__(self, *groups: tuple[Vector, Sequence[Tensor]]) -> None:
        """Replace every entry of vectors by its sum over processes.

        Args:
            *groups: Vectors, each with the tensors that its entries have the shapes of; the same on
                all processes.
        """
        if self._all_reduce is None:
            return
        messages: dict[torch.dtype, _Message] = {}
        for vector, like in groups:
            for place, (entry, shape) in enumerate(zip(vector, like, strict=True)):
                if is_sharded(shape):  # its backward pass has summed
                    continue
                messages.setdefault(shape.dtype, _Message()).add(vector, place, entry, shape)
        for message in messages.values():
            message.send(self._all_reduce)

    def summed(self, *groups: tuple[Vector, Sequence[Tensor]]) -> list[Vector]:
        """The sums over processes, as new tensors where there are several processes."""
        if self._all_reduce is None:
            return [vector for vector, _ in groups]
        copies = [
            [None if entry is None else entry.clone() for entry in vector] for vector, _ in groups
        ]
        self(*((copy, like) for copy, (_, like) in zip(copies, groups, strict=True)))
        return copies


@dataclass
class _Message:
    """Entries of one dtype, and after them a number for each that says how many processes have it."""

    entries: list[Tensor] = field(default_factory=list)
    lacking: dict[int, tuple[Vector, int]] = field(default_factory=dict)

    def add(self, vector: Vector, place: int, entry: Tensor | None, shape: Tensor) -> None:
        """Take up an entry of a vector."""
        if entry is None:
            self.lacking[len(self.entries)] = (vector, place)
        self.entries.append(torch.zeros_like(shape) if entry is None else entry)

    def send(self, all_reduce: Callable[[Tensor], None]) -> None:
        """Sum, and put the sums where the entries came from."""
        there = self.entries[0].new_ones(len(self.entries))
        there[list(self.lacking)] = 0
        flat = torch.cat([*(entry.reshape(-1) for entry in self.entries), there])
        all_reduce(flat)
        *sums, there = flat.split([*(entry.numel() for entry in self.entries), len(there)])
        sums = [one.view_as(entry) for one, entry in zip(sums, self.entries, strict=True)]
        torch._foreach_copy_(self.entries, sums)
        if self.lacking:  # only then is the device asked for a value
            counts = there.tolist()
            for number, (vector, place) in self.lacking.items():
                vector[place] = self.entries[number] if counts[number] else None

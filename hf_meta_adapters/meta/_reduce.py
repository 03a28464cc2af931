"""Sums over processes, where the outer step needs quantities of the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce
from hf_meta_adapters.meta.vectors import Vector, is_sharded, mapped


class Reduce:
    """In-place sums over processes, fused into one message per dtype.

    A parameter may have a gradient on one process and none on another (an expert to which no token
    was routed). It then counts as zero where it is absent, and every process gets the sum.

    Args:
        all_reduce: Sums one flat tensor over all processes in place; `None` on a single process.
    """

    def __init__(self, all_reduce: AllReduce | None = None) -> None:
        self._all_reduce = all_reduce

    def __call__(self, *groups: tuple[Vector, Sequence[Tensor]]) -> None:
        """Replace every entry of vectors by its sum over processes.

        Args:
            *groups: Vectors, each with tensors that have the shapes of its entries; the same on all
                processes.
        """
        if self._all_reduce is None:
            return

        messages: dict[torch.dtype, _Message] = {}
        for vector, like in groups:
            for position, (entry, parameter) in enumerate(zip(vector, like, strict=True)):
                # FSDP2 has summed these in the backward pass.
                if is_sharded(parameter):
                    continue

                message = messages.setdefault(parameter.dtype, _Message())
                message.add(vector, position, entry, parameter)

        for message in messages.values():
            message.send(self._all_reduce)

    def summed(self, *groups: tuple[Vector, Sequence[Tensor]]) -> list[Vector]:
        """The sums over processes, as new tensors where there are several processes."""
        if self._all_reduce is None:
            return [vector for vector, _ in groups]

        copies = [(mapped(vector, Tensor.clone), like) for vector, like in groups]
        self(*copies)
        return [vector for vector, _ in copies]

    def total(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over processes."""
        if self._all_reduce is not None:
            self._all_reduce(tensor)


@dataclass
class _Message:
    """Entries of one dtype, followed by the number of processes on which each is present."""

    entries: list[Tensor] = field(default_factory=list)
    absent: dict[int, tuple[Vector, int]] = field(default_factory=dict)
    """The number of an entry that this process lacks → the vector and position it belongs to."""

    def add(self, vector: Vector, position: int, entry: Tensor | None, like: Tensor) -> None:
        """Append an entry of a vector."""
        if entry is None:
            self.absent[len(self.entries)] = (vector, position)
            entry = torch.zeros_like(like)
        self.entries.append(entry)

    def send(self, all_reduce: AllReduce) -> None:
        """Sum over processes, and put the sums where the entries came from."""
        counts = self.entries[0].new_ones(len(self.entries))
        counts[list(self.absent)] = 0

        flat = torch.cat([*(entry.reshape(-1) for entry in self.entries), counts])
        all_reduce(flat)

        sizes = [entry.numel() for entry in self.entries]
        *sums, counts = flat.split([*sizes, len(self.entries)])
        sums = [total.view_as(entry) for total, entry in zip(sums, self.entries, strict=True)]
        torch._foreach_copy_(self.entries, sums)

        # Only if this process lacks an entry does the host wait for values.
        if self.absent:
            present_on = counts.tolist()
            for number, (vector, position) in self.absent.items():
                vector[position] = self.entries[number] if present_on[number] else None

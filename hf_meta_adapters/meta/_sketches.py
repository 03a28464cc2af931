"""Inner products of gradients that need not be in memory together, from their projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta.vectors import Vector, is_sharded, local
from hf_meta_adapters.products.gram import gram
from hf_meta_adapters.products.projection import project

DIMENSION = 1 << 14
"""k: the error of a cosine has a standard deviation of at most √(2/k), 0.011."""

_SHARDS = 1 << 12  # more processes than hold shards of one parameter


class Sketches:
    """Random projections of gradients, group by group; those of one step have one seed.

    Projections are linear: those of parts, of shards or of processes, add up to that of the whole.
    Groups of up to k numbers are not projected, and their products are exact.

    Args:
        parameters: θ.
        groups: The positions of each group of parameters.
        seed: The seed of this step, the same on every process.
        summed: Whether every process adds the gradient of the global batch, and not its own part.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        groups: Mapping[str, Sequence[int]],
        *,
        seed: int,
        summed: bool,
    ) -> None:
        self._parameters = parameters
        self._groups = groups
        self._seed = seed
        self._summed = summed
        self._has_shards = any(is_sharded(parameter) for parameter in parameters)
        self._common: list[Tensor] = []
        self._own: list[Tensor] = []

    def add(self, gradient: Vector) -> None:
        """Project the gradient of the next language."""
        like = self._parameters[0]
        dtype = torch.promote_types(like.dtype, torch.float32)
        common = torch.zeros(len(self._groups), DIMENSION, dtype=dtype, device=like.device)
        own = torch.zeros_like(common)

        for number, members in enumerate(self._groups.values()):
            start, is_short = 0, self._is_short(members)
            for position in members:
                entry, parameter = gradient[position], self._parameters[position]
                if entry is not None:
                    vector = local(entry).detach().reshape(-1).to(dtype)
                    row = (own if is_sharded(parameter) else common)[number]
                    if is_short:
                        first = start + _first(parameter)
                        row[first : first + len(vector)] = vector
                    elif len(vector):
                        row += project(vector, DIMENSION, seed=self._seed_of(position))
                start += parameter.numel()

        self._common.append(common)
        self._own.append(own)

    def gramians(self, reduce: Reduce) -> Tensor:
        """The inner products in each group, (groups, L, L), float64, on the CPU."""
        common, own = torch.stack(self._common), torch.stack(self._own)  # (L, groups, k)

        if not self._summed:
            common += own
            reduce.total(common)
        elif self._has_shards:
            reduce.total(own)
            common += own

        products = [gram(list(rows.contiguous())) for rows in common.transpose(0, 1)]
        return torch.stack(products)

    def _is_short(self, members: Sequence[int]) -> bool:
        return sum(self._parameters[position].numel() for position in members) <= DIMENSION

    def _seed_of(self, position: int) -> int:
        """Shards of one parameter have seeds of their own, as parameters have."""
        return self._seed + position * _SHARDS + _shard(self._parameters[position])


def _shard(parameter: Tensor) -> int:
    """The number of the shard that this process holds, 0 of a whole parameter."""
    if not is_sharded(parameter):
        return 0
    return int(parameter.device_mesh.get_local_rank())


def _first(parameter: Tensor) -> int:
    """Where the numbers that this process holds begin among those of the parameter."""
    if not is_sharded(parameter):
        return 0

    # FSDP2 cuts the first dimension into parts of equal size, the last of which may be shorter.
    length = parameter.shape[0]
    rows = min(_shard(parameter) * -(-length // parameter.device_mesh.size()), length)
    return rows * parameter.numel() // max(length, 1)

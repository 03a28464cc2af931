"""Gradients of languages that are all kept until they are weighed."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._combination import Again, Combination, SurgeryStep
from hf_meta_adapters.meta.vectors import Vector, is_sharded, local
from hf_meta_adapters.products.gram import gram


class KeptGradients(Combination):
    """One pass, exact inner products, and L times the memory of θ.

    Args:
        step: The step.
    """

    def __init__(self, step: SurgeryStep) -> None:
        super().__init__(step)
        self._kept: list[Vector] = []

    def add(self, key: Language, gradient: Vector) -> None:
        """Keep the gradient, summed over processes."""
        if not self.summed:
            (gradient,) = self.reduce.summed((gradient, self.parameters))
        self._kept.append(gradient)

    def result(self, again: Again) -> tuple[Vector, dict[Language, Tensor]]:
        """Weigh what was kept."""
        gramians = self._gramians()
        weights = self.agreed(self.surgery.weights(self.languages, gramians))
        self.surgery.observe(self.languages, gramians)

        total = self.absent()
        for number, gradient in enumerate(self._kept):
            self.add_weighted_(total, gradient, weights[:, number])
        return total, self.by_language(weights)

    def _gramians(self) -> Tensor:
        """The inner products in each group, (groups, L, L)."""
        size = len(self._kept)
        common = torch.zeros(len(self.groups), size, size, dtype=torch.float64)
        own = torch.zeros_like(common)  # of the shards that this process holds
        for number, members in enumerate(self.groups.values()):
            for position in members:
                total = own if is_sharded(self.parameters[position]) else common
                total[number] += self._products(position)

        if any(is_sharded(parameter) for parameter in self.parameters):
            message = own.to(self.parameters[0].device)
            self.reduce.total(message)
            common += message.cpu()
        return common

    def _products(self, position: int) -> Tensor:
        """The inner products of the entries of one parameter, (L, L)."""
        like = local(self.parameters[position].detach())
        rows = []
        for gradient in self._kept:
            entry = gradient[position]
            rows.append(torch.zeros_like(like) if entry is None else local(entry).detach())
        return gram([row.reshape(-1) for row in rows])

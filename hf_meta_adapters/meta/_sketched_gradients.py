"""Gradients of languages whose weights come from random projections of them."""

from __future__ import annotations

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._combination import Again, Combination, SurgeryStep
from hf_meta_adapters.meta._sketches import Sketches
from hf_meta_adapters.meta.vectors import Vector


class SketchedGradients(Combination):
    """The weights of this very step, at the price of a second pass; memory as for the mean.

    Args:
        step: The step.
    """

    passes_twice = True

    def __init__(self, step: SurgeryStep) -> None:
        super().__init__(step)
        seed = self.surgery.draw()
        self._sketches = Sketches(self.parameters, self.groups, seed=seed, summed=self.summed)

    def add(self, key: Language, gradient: Vector) -> None:
        """Project the gradient."""
        self._sketches.add(gradient)

    def result(self, again: Again) -> tuple[Vector, dict[Language, Tensor]]:
        """Take the gradients again, with their weights."""
        gramians = self._sketches.gramians(self.reduce)
        weights = self.agreed(self.surgery.weights(self.languages, gramians))
        self.surgery.observe(self.languages, gramians)

        total = self.absent()
        for number, key in enumerate(self.languages):
            self.add_weighted_(total, again(key), weights[:, number])
        self.reduce((total, self.parameters))
        return total, self.by_language(weights)

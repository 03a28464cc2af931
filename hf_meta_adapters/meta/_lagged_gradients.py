"""Gradients of languages whose weights come from those of earlier steps."""

from __future__ import annotations

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._combination import Again, Combination, SurgeryStep
from hf_meta_adapters.meta._sketches import Sketches
from hf_meta_adapters.meta.vectors import Vector


class LaggedGradients(Combination):
    """One pass, with weights from the running mean of the inner products of earlier steps.

    Args:
        step: The step.
    """

    def __init__(self, step: SurgeryStep) -> None:
        super().__init__(step)
        self._sketches: Sketches | None = None
        if self.surgery.measures(self.languages, len(self.groups)):
            seed = self.surgery.draw()
            self._sketches = Sketches(self.parameters, self.groups, seed=seed, summed=self.summed)

        expected = self.surgery.expected(self.languages, len(self.groups))
        self._weights = self.agreed(self.surgery.weights(self.languages, expected))
        self._total = self.absent()

    def add(self, key: Language, gradient: Vector) -> None:
        """Weigh the gradient, and in some steps project it for those to come."""
        number = self.languages.index(key)
        self.add_weighted_(self._total, gradient, self._weights[:, number])
        if self._sketches is not None:
            self._sketches.add(gradient)

    def result(self, again: Again) -> tuple[Vector, dict[Language, Tensor]]:
        """Return the sum."""
        if self._sketches is None:
            self.surgery.skip()
        else:
            self.surgery.observe(self.languages, self._sketches.gramians(self.reduce))

        if not self.summed:
            self.reduce((self._total, self.parameters))
        return self._total, self.by_language(self._weights)

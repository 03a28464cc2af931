"""Gradients of languages whose weights come from random projections of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_meta_adapters._typing import Language, Parameters
from hf_meta_adapters.meta._combination import Again, Combination
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._sketches import Sketches
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.vectors import Vector


class SketchedGradients(Combination):
    """The weights of this very step, at the price of a second pass; memory as for the mean.

    Args:
        surgery: As for `Combination`.
        shared: As there.
        languages: As there.
        reduce: As there.
        summed: As there.
    """

    passes_twice = True

    def __init__(
        self,
        surgery: Surgery,
        shared: Parameters,
        languages: Sequence[Language],
        reduce: Reduce,
        *,
        summed: bool,
    ) -> None:
        super().__init__(surgery, shared, languages, reduce, summed=summed)
        self._sketches = Sketches(self.parameters, self.groups, seed=surgery.draw(), summed=summed)

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

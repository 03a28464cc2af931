"""The weight of each language in the gradient of θ, and its agreement with another gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.vectors import Vector, cosine, dot, norm


@dataclass(frozen=True)
class Shares:
    """What the passes of a step need of `StepWeights`, in the order of θ.

    Args:
        of: w_l of each language that has a training loss; they sum to 1.
        against: v of an earlier step, if gradients are compared with it.
        keep_validation: Whether v of this step is wanted.
    """

    of: Mapping[Language, float]
    against: Vector | None = None
    keep_validation: bool = False

    @classmethod
    def equal(cls, trained: Sequence[Language]) -> Shares:
        """The mean."""
        return cls(dict.fromkeys(trained, 1 / max(len(trained), 1)))

    def product(self, gradient: Vector, value: Tensor) -> Tensor | None:
        """⟨gradient, v⟩, 0-d; `None` where nothing is compared.

        Args:
            gradient: A gradient of θ.
            value: A loss, 0-d, whose dtype and device the product gets.
        """
        if self.against is None:
            return None
        return dot(gradient, self.against).to(value)

    def alignment(self, products: Mapping[Language, Tensor], total: Vector) -> dict[str, Tensor]:
        """a_l = ⟨g_l, v⟩ / (‖g‖ ‖v‖), g = Σ_k w_k g_k; Σ_l w_l a_l is the cosine of g and v.

        Args:
            products: ⟨g_l, v⟩ of each language, 0-d.
            total: g.

        Returns:
            a_l, 0-d; 0 where a norm is.
        """
        if self.against is None:
            return {}

        norms = norm(total) * norm(self.against)
        return {key: cosine(product, norms.to(product)) for key, product in products.items()}

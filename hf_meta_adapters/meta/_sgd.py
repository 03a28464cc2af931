"""The virtual step of the paper: plain gradient descent."""

from __future__ import annotations

from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta.vectors import Vector


class SGD(InnerOptimizer):
    """Δ(g) = g, the plain gradient step of Algorithm 1 (Wang, Lipton and Tsvetkov, 2020)."""

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return g and the identity."""
        return gradient, None

"""The virtual step θ' = θ − β Δ(g): how θ would move, and how that depends on the gradient g."""

from __future__ import annotations

from abc import ABC, abstractmethod

from hf_meta_adapters.meta.vectors import Vector


class InnerOptimizer(ABC):
    """A rule Δ(g) that works on each entry by itself, so that its Jacobian ∂Δ/∂g is diagonal."""

    @abstractmethod
    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Δ(g) and the diagonal of ∂Δ/∂g.

        Args:
            gradient: g, one entry per parameter of θ.

        Returns:
            Δ(g) and the diagonal, both shaped like g; `None` in place of the diagonal means the
            identity.
        """

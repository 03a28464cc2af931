"""The numbers in the formulas of a step of Adam."""

from __future__ import annotations

import math
from typing import NamedTuple


class AdamConstants(NamedTuple):
    """What the formulas of a step of Adam hold besides vectors.

    What the corrections have in common is taken out of the vectors: with c = √(1 − β₂ᵗ), ε' = c ε
    and s = c / (1 − β₁ᵗ), and the moments m' = β₁ m + (1 − β₁) g and v' = β₂ v + (1 − β₂) g² after
    the step,

        Δ = s m' / (√v' + ε'),
        ∂Δ/∂g = s (1 − β₁ − (1 − β₂) m' g / (√v' (√v' + ε'))) / (√v' + ε').

    Args:
        betas: (β₁, β₂).
        epsilon: ε.
        steps: t, the number of updates with this one.
    """

    betas: tuple[float, float]
    epsilon: float
    steps: float

    @property
    def correction(self) -> float:
        """The number c."""
        return math.sqrt(1 - self.betas[1] ** self.steps)

    @property
    def scale(self) -> float:
        """The number s."""
        return self.correction / (1 - self.betas[0] ** self.steps)

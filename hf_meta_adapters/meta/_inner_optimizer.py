"""The virtual step θ' = θ − β Δ(g): how the shared weights would move, and how that move depends on the gradient g."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
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


class SGD(InnerOptimizer):
    """Δ(g) = g, the plain gradient step of Algorithm 1 (Wang, Lipton and Tsvetkov, 2020)."""

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return g and the identity."""
        return gradient, None


@dataclass(frozen=True)
class AdamState:
    """What Adam remembers of one parameter.

    Args:
        first_moment: m, shaped like the parameter.
        second_moment: v, likewise.
        steps: t, the number of updates so far.
        betas: (β₁, β₂), the decay rates of m and v.
        epsilon: ε, added to √v̂.
    """

    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor | int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    """Δ(g) = m̂ / (√v̂ + ε), the step that Adam would take next (Kingma and Ba, 2015), with its exact derivative.

    With t the number of the coming update,

        m̂ = (β₁ m + (1 − β₁) g) / (1 − β₁ᵗ),     v̂ = (β₂ v + (1 − β₂) g²) / (1 − β₂ᵗ),
        ∂Δ/∂g = (1 − β₁) / ((1 − β₁ᵗ) (√v̂ + ε)) − m̂ (1 − β₂) g / ((1 − β₂ᵗ) √v̂ (√v̂ + ε)²).

    The state itself is not changed. Before the optimizer has one (the first step), Δ is nearly
    sign(g), which hardly depends on g: the indirect part is then close to zero, as it is for the
    true step. Weight decay is left out, as it does not depend on g.

    Args:
        states: One state per parameter of θ; `None` where the optimizer has none yet.
        betas: (β₁, β₂) for parameters without a state.
        epsilon: ε for parameters without a state.
    """

    states: Sequence[AdamState | None]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Adam:
        """The step that an Adam-like optimizer would take, from the state it has of `parameters`.

        Args:
            optimizer: One whose state holds `exp_avg`, `exp_avg_sq` and `step` (Adam, AdamW and
                their fused forms).
            parameters: θ.

        Returns:
            The virtual step.

        Raises:
            ConfigurationError: If the optimizer keeps other state, or does not hold a parameter.
        """
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        states: list[AdamState | None] = []
        for parameter in parameters:
            group, state = groups.get(id(parameter)), optimizer.state.get(parameter, {})
            if (
                group is None
                or "betas" not in group
                or (state and not {"exp_avg", "exp_avg_sq", "step"} <= set(state))
            ):
                raise ConfigurationError(
                    '`inner_optimizer="adam"` needs an optimizer of the Adam family that holds'
                    f" every shared parameter. Found `{type(optimizer).__name__}`. Write"
                    ' `inner_optimizer="sgd"` or `optim="adamw_torch"`.'
                )
            moments = (
                (state["exp_avg"], state["exp_avg_sq"], state["step"].to(parameter.device))
                if state
                else None
            )
            states.append(moments and AdamState(*moments, tuple(group["betas"]), group["eps"]))
        first = optimizer.param_groups[0]
        return cls(states, tuple(first["betas"]), first["eps"])

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return Δ(g) and the diagonal of its Jacobian."""
        steps: Vector = []
        diagonal: Vector = []
        for entry, state in zip(gradient, self.states, strict=True):
            step, slope = (None, None) if entry is None else self._one(entry, state)
            steps.append(step)
            diagonal.append(slope)
        return steps, diagonal

    def _one(self, g: Tensor, state: AdamState | None) -> tuple[Tensor, Tensor]:
        if state is None:
            state = AdamState(torch.zeros_like(g), torch.zeros_like(g), 0, self.betas, self.epsilon)
        (b1, b2), eps, t = state.betas, state.epsilon, state.steps + 1
        m = (b1 * state.first_moment + (1 - b1) * g) / (1 - b1**t)
        root = ((b2 * state.second_moment + (1 - b2) * g * g) / (1 - b2**t)).sqrt()
        denominator = root + eps
        slope = (1 - b1) / ((1 - b1**t) * denominator)
        correction = m * (1 - b2) * g / ((1 - b2**t) * root * denominator * denominator)
        # An entry without any gradient, now or before, stays where it is: 0/0 above, and (1 − β₁)/ε
        # would be a slope that no later step has.
        still = root == 0
        return m / denominator, torch.where(still, torch.zeros_like(g), slope - correction)

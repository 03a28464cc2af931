"""The virtual step that Adam would take, from the moments that the optimizer of θ has now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta.vectors import Vector

_STATE = {"exp_avg", "exp_avg_sq", "step"}
"""The names under which PyTorch's optimizers of the Adam family keep m, v and t."""


def is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer takes the steps of Adam, with or without decay of the weights.

    By its class: RAdam and NAdam keep a state of the same names and take other steps.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))


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
    """Δ(g) = m̂ / (√v̂ + ε), the step that Adam would take next, with its exact derivative.

    Kingma and Ba (ICLR 2015). With t the number of the coming update,

        m̂ = (β₁ m + (1 − β₁) g) / (1 − β₁ᵗ),     v̂ = (β₂ v + (1 − β₂) g²) / (1 − β₂ᵗ),
        ∂Δ/∂g = (1 − β₁) / ((1 − β₁ᵗ) (√v̂ + ε)) − m̂ (1 − β₂) g / ((1 − β₂ᵗ) √v̂ (√v̂ + ε)²).

    The state itself does not change. Before the optimizer has one (in the first step), Δ is nearly
    sign(g), which hardly depends on g: the indirect part is then close to zero, as it is for the
    true step. Weight decay is left out, since it does not depend on g.

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
        """The step that an optimizer of the Adam family would take, from the state that it has now.

        Args:
            optimizer: Adam or AdamW of PyTorch, fused or not.
            parameters: θ.

        Returns:
            The virtual step.

        Raises:
            ConfigurationError: If it is another optimizer, or does not hold a parameter.
        """
        # By identity: comparing tensors with `==` would compare their entries.
        group_of = {
            id(parameter): group
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

        states: list[AdamState | None] = []
        for parameter in parameters:
            group = group_of.get(id(parameter))
            state = optimizer.state.get(parameter, {})

            is_known = is_adam(optimizer) and group is not None and not group["amsgrad"]
            if group is None or not is_known or (state and not set(state) >= _STATE):
                raise ConfigurationError(
                    '`inner_optimizer="adam"` needs PyTorch\'s Adam or AdamW (without `amsgrad`)'
                    f" that holds every shared parameter. Found `{type(optimizer).__name__}`. Use"
                    ' `inner_optimizer="sgd"` or `optim="adamw_torch"`.'
                )

            # The optimizer creates it in its first update.
            if not state:
                states.append(None)
                continue

            states.append(
                AdamState(
                    first_moment=state["exp_avg"],
                    second_moment=state["exp_avg_sq"],
                    steps=_steps(state["step"], parameter),
                    betas=tuple(group["betas"]),
                    epsilon=group["eps"],
                )
            )

        first_group = optimizer.param_groups[0]
        return cls(states, tuple(first_group["betas"]), first_group["eps"])

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return Δ(g) and the diagonal of its Jacobian."""
        steps: Vector = []
        diagonal: Vector = []

        for entry, state in zip(gradient, self.states, strict=True):
            if entry is None:
                steps.append(None)
                diagonal.append(None)
                continue

            step, slope = self._step_and_slope(entry, state)
            steps.append(step)
            diagonal.append(slope)

        return steps, diagonal

    def _step_and_slope(self, g: Tensor, state: AdamState | None) -> tuple[Tensor, Tensor]:
        """Δ(g) and ∂Δ/∂g of one parameter, by the equations above."""
        if state is None:
            zeros = torch.zeros_like(g)
            state = AdamState(zeros, zeros, 0, self.betas, self.epsilon)

        b1, b2 = state.betas
        t = state.steps + 1
        m_hat = torch.lerp(state.first_moment, g, 1 - b1).mul_(1 / (1 - b1**t))

        # In place wherever it can be: θ is long, and every new tensor is a pass over memory.
        root = (b2 * state.second_moment).addcmul_(g, g, value=1 - b2)
        root = root.mul_(1 / (1 - b2**t)).sqrt_()
        denominator = root + state.epsilon
        step = m_hat.div_(denominator)

        # (1 − β₁) / (1 − β₁ᵗ) − Δ (1 − β₂) g / ((1 − β₂ᵗ) √v̂), all of it over √v̂ + ε
        slope = (step * g).div_(root).mul_(-(1 - b2) / (1 - b2**t))
        slope = slope.add_((1 - b1) / (1 - b1**t)).div_(denominator)

        # An entry that never had a gradient stays where it is. The formula has 0/0 there, and its
        # limit (1 − β₁)/ε is a slope that no later step has.
        return step, slope.masked_fill_(root == 0, 0.0)


def _steps(count: Tensor, parameter: Tensor) -> Tensor | int:
    """t; PyTorch keeps it on the CPU unless the optimizer is fused."""
    if count.device.type == "cpu":
        # read at once, while the host would wait for each copy to a device
        return int(count)

    if parameter.device.type == "mps":
        return count.to(parameter.device)

    # βᵗ in float32, as the count is, would be wrong in the eighth digit.
    return count.to(parameter.device, torch.float64)

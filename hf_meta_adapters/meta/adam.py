"""The virtual step that Adam would take, from the moments that the optimizer of θ has now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._adam_constants import AdamConstants
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._pieces import Piece, pieces, room
from hf_meta_adapters.meta.vectors import Vector, absent, local

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
    steps: float
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

        counts = step_counts([optimizer.state.get(parameter, {}) for parameter in parameters])
        states: list[AdamState | None] = []
        for parameter, count in zip(parameters, counts, strict=True):
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
                    steps=count,
                    betas=tuple(group["betas"]),
                    epsilon=group["eps"],
                )
            )

        first_group = optimizer.param_groups[0]
        return cls(states, tuple(first_group["betas"]), first_group["eps"])

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return Δ(g) and the diagonal of its Jacobian."""
        steps, slopes = absent(self.states), absent(self.states)
        constants: dict[int, AdamConstants] = {}
        rows: dict[int, list[Tensor]] = {}

        for position, entry in enumerate(gradient):
            if entry is not None:
                step, slope = room(entry), room(entry)
                steps[position], slopes[position] = step, slope

                first, second, constants[position] = self._state(position, entry)
                rows[position] = [entry, first, second, step, slope]

        for piece in pieces(constants, rows):
            _write_step_and_slope(piece)

        return steps, slopes

    def _state(self, position: int, entry: Tensor) -> tuple[Tensor, Tensor, AdamConstants]:
        """Both moments of a parameter, which are zero before the optimizer has any."""
        state = self.states[position]
        if state is None:
            zeros = torch.zeros_like(entry)
            return zeros, zeros, AdamConstants(self.betas, self.epsilon, 1.0)

        constants = AdamConstants(state.betas, state.epsilon, state.steps + 1)
        return state.first_moment, state.second_moment, constants


def _write_step_and_slope(piece: Piece[AdamConstants]) -> None:
    """Write Δ(g) and ∂Δ/∂g of parameters with the same constants."""
    g, first, second, moved, slope = piece.columns
    constants = piece.constants
    b1, b2 = constants.betas

    step = torch._foreach_lerp(first, g, 1 - b1)
    root = torch._foreach_lerp(second, torch._foreach_mul(g, g), 1 - b2)
    torch._foreach_sqrt_(root)

    denominator = torch._foreach_add(root, constants.correction * constants.epsilon)
    torch._foreach_div_(step, denominator)

    # An entry that never had a gradient stays where it is. The formula has 0/0 there, and its limit
    # (1 − β₁)/ε is a slope that no later step has: the slope is zero, as the sign of √v' says.
    sign = torch._foreach_sign(root)
    torch._foreach_clamp_min_(root, torch.finfo(root[0].dtype).tiny)

    inner = torch._foreach_mul(step, g)
    torch._foreach_div_(inner, root)
    torch._foreach_mul_(inner, (b2 - 1) * constants.scale)
    torch._foreach_add_(inner, (1 - b1) * constants.scale)
    torch._foreach_div_(inner, denominator)
    torch._foreach_mul_(inner, sign)

    torch._foreach_copy_(slope, inner)
    torch._foreach_mul_(step, constants.scale)
    torch._foreach_copy_(moved, step)


def step_counts(states: Sequence[Mapping[str, Any]]) -> list[float]:
    """The number t of each parameter; fused optimizers keep it on the device.

    Args:
        states: The optimizer's state of each parameter.
    """
    positions = [position for position, state in enumerate(states) if "step" in state]
    counts = [0.0] * len(states)
    tensors = [local(states[position]["step"]) for position in positions]

    # All at once: the host waits for the device each time.
    values: list[float] = []
    if len({tensor.device for tensor in tensors}) == 1:
        values = torch.stack(tensors).tolist()
    else:
        values = [float(tensor) for tensor in tensors]

    for position, value in zip(positions, values, strict=True):
        counts[position] = value
    return counts

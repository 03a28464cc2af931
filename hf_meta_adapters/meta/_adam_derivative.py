"""How a step that Adam has taken depends on the gradient that it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters.meta._adam_constants import AdamConstants
from hf_meta_adapters.meta._pieces import Piece, pieces, room
from hf_meta_adapters.meta.adam import step_counts
from hf_meta_adapters.meta.vectors import Vector, absent


def adam_derivative(
    states: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    gradients: Vector,
    factors: Sequence[Tensor | float],
) -> Vector:
    """Compute ∂Δ/∂g of the step that Adam or AdamW has taken, from the moments after it.

    Kingma and Ba (ICLR 2015). With m' and v' the moments after the step t, c = √(1 − β₂ᵗ),
    ε' = c ε and s = c / (1 − β₁ᵗ),

        ∂Δ/∂g = s (1 − β₁ − (1 − β₂) m' g / (√v' (√v' + ε'))) / (√v' + ε'),

    and zero where g is exactly zero.

    Args:
        states: The optimizer's state of each parameter, after the step.
        groups: The group of each parameter, with β₁, β₂ and ε.
        gradients: g, an entry of the shape of each parameter: the parts that this process holds.
        factors: One for each parameter, with which its entries are multiplied.

    Returns:
        The diagonal, shaped like g; absent where there is no gradient.
    """
    derivative = absent(gradients)
    constants: dict[int, AdamConstants] = {}
    rows: dict[int, list[Tensor]] = {}

    for position, count in enumerate(step_counts(states)):
        entry, state, group = gradients[position], states[position], groups[position]
        # The optimizer has a state of what it has updated.
        if entry is None or not state:
            continue

        constants[position] = AdamConstants(tuple(group["betas"]), group["eps"], count)
        result = room(entry)
        derivative[position] = result
        rows[position] = [entry, state["exp_avg"], state["exp_avg_sq"], result]

    for piece in pieces(constants, rows):
        _write_slope(piece, [factors[position] for position in piece.positions])

    return derivative


def _write_slope(piece: Piece[AdamConstants], factors: Sequence[Tensor | float]) -> None:
    """Write ∂Δ/∂g, times a factor, of parameters with the same constants."""
    g, first, second, outputs = piece.columns
    b1, b2 = piece.constants.betas

    # i = 1/√v'. The bound keeps ∞ away where v' is zero, and so is the result.
    inverse = torch._foreach_clamp_min(second, torch.finfo(second[0].dtype).tiny)
    torch._foreach_pow_(inverse, -0.5)  # MKL takes twice as long for the square root

    # 1/(√v' + ε') = i/(1 + ε' i)
    rate = torch._foreach_mul(inverse, piece.constants.correction * piece.constants.epsilon)
    torch._foreach_add_(rate, 1.0)
    torch._foreach_reciprocal_(rate)
    torch._foreach_mul_(rate, inverse)

    # g² has the sign 0 where g is zero, and else 1: (1 − β₁)/s of all, without the others.
    slope = torch._foreach_sign(g)
    torch._foreach_mul_(slope, slope)
    torch._foreach_mul_(inverse, first)
    torch._foreach_mul_(inverse, g)
    torch._foreach_addcmul_(slope, inverse, rate, value=(b2 - 1) / (1 - b1))
    torch._foreach_mul_(slope, rate)

    scale = (1 - b1) * piece.constants.scale
    for entry, factor, output in zip(slope, factors, outputs, strict=True):
        torch.mul(entry, factor * scale, out=output)

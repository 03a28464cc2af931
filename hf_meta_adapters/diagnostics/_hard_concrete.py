"""Hard concrete gates (Louizos, Welling and Kingma 2018): differentiable L0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "deterministic_gates",
    "initial_log_alpha",
    "keep_probability",
    "sample_gates",
    "shift_to_density",
]

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3  # stretch and temperature of the paper
_SPREAD = 0.01  # standard deviation of the initial log α, also of the paper
_EDGE = 1e-6  # keeps the uniform noise off 0 and 1, where its logit is infinite
_LARGEST_STEP = 1.0
_NEWTON_STEPS = 4


def initial_log_alpha(
    shape: torch.Size | tuple[int, ...], keep_rate: float, generator: torch.Generator
) -> Tensor:
    """Return `log α ~ N(logit(keep rate), 0.01²)`.

    Args:
        shape: Shape of the gates.
        keep_rate: Median of the unstretched gates at the start, in (0, 1).
        generator: Source of the noise.

    Returns:
        log α.
    """
    return torch.logit(torch.tensor(keep_rate)) + _SPREAD * torch.randn(shape, generator=generator)


def sample_gates(log_alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Return `z = min(1, max(0, s (ζ − γ) + γ))` with `s = σ((log u − log(1 − u) + log α) / β)`.

    Equations 10 and 11 of the paper, with `u ~ U(0, 1)`, γ = −0.1, ζ = 1.1 and β = 2/3.

    Args:
        log_alpha: Location of each gate.
        generator: Source of u, on the CPU, so that a seed gives the same gates on every device.

    Returns:
        Gates in [0, 1], differentiable with respect to `log_alpha`.
    """
    u = torch.rand(log_alpha.shape, generator=generator).clamp_(_EDGE, 1 - _EDGE)
    noise = u.to(log_alpha.device).logit()
    return (torch.sigmoid((noise + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def keep_probability(log_alpha: Tensor) -> Tensor:
    """Return `P(z ≠ 0) = σ(log α − β log(−γ/ζ))`, whose sum is the expected L0 norm (equation 12).

    Args:
        log_alpha: Location of each gate.

    Returns:
        Probabilities.

    Example:
        >>> keep_probability(torch.zeros(1))
        tensor([0.8318])
    """
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def deterministic_gates(log_alpha: Tensor) -> Tensor:
    """Return `ẑ = min(1, max(0, σ(log α)(ζ − γ) + γ))`, the gates at test time (equation 13).

    Args:
        log_alpha: Location of each gate.

    Returns:
        Gates in [0, 1].

    Example:
        >>> deterministic_gates(torch.tensor([-3.0, 0.0, 3.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def shift_to_density(log_alphas: list[Tensor], sizes: list[int], density: float) -> None:
    """Shift all log α by one number, in place, to an expected share `density` of kept weights.

    This replaces the penalty λ E‖z‖₀: which λ gives a certain sparsity depends on the loss and has
    to be found by trial, while a shift, a step along the constraint, meets it exactly. Solved by
    Newton's method, starting from the solution of the previous step.

    Args:
        log_alphas: Gates of each parameter.
        sizes: Weights that a gate of each parameter stands for.
        density: The share, in (0, 1).
    """
    total = sum(size * log_alpha.numel() for size, log_alpha in zip(sizes, log_alphas, strict=True))

    for _ in range(_NEWTON_STEPS):
        kept = slope = 0.0
        for size, log_alpha in zip(sizes, log_alphas, strict=True):
            probability = keep_probability(log_alpha)
            kept += size * float(probability.sum(dtype=torch.float64))
            # σ' = σ (1 − σ)
            slope += size * float((probability * (1 - probability)).sum(dtype=torch.float64))

        # Where nearly all gates are open or shut, the slope vanishes and a Newton step explodes.
        step = (density - kept / total) / max(slope / total, _EDGE)
        step = max(-_LARGEST_STEP, min(_LARGEST_STEP, step))
        for log_alpha in log_alphas:
            log_alpha += step

"""One mask: gates on frozen weights, trained on the text of one language, then made binary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.diagnostics._gate_layout import GateLayout
from hf_meta_adapters.diagnostics._gated_loss import GatedLoss
from hf_meta_adapters.diagnostics._hard_concrete import (
    initial_log_alpha,
    keep_probability,
    sample_gates,
    shift_to_density,
)

__all__ = ["MaskTraining", "exact_mask", "train_gates"]

_WARM_UP = (
    0.5  # share of the steps in which the density falls from its initial value to the wanted one
)


@dataclass(frozen=True)
class MaskTraining:
    """Settings of the training of one mask.

    Attributes:
        sparsity: Share of the weights to prune.
        steps: Number of updates.
        learning_rate: Rate of Adam on log α.
        initial_keep_rate: Initial median of the gates.
    """

    sparsity: float
    steps: int
    learning_rate: float
    initial_keep_rate: float


def train_gates(
    loss_of: GatedLoss,
    layout: GateLayout,
    device: torch.device,
    batches: Sequence[Batch],
    settings: MaskTraining,
    *,
    seed: int,
    on_step: Callable[[], object],
) -> dict[str, Tensor]:
    """Return log α that minimise `E_z L_l(θ ⊙ z)` subject to `E‖z‖₀ = (1 − sparsity) · |θ|`, over frozen θ.

    Args:
        loss_of: The loss as a function of the gates.
        layout: The gates, and how they reach the weights.
        device: Where the gates live.
        batches: Text of the language, gone through in a random order again and again.
        settings: The settings.
        seed: Seed of initial values, gates and the order of batches.
        on_step: Called after each update.

    Returns:
        Name of a tensor of gates → log α.
    """
    generator = torch.Generator().manual_seed(seed)
    log_alpha = {
        name: (
            initial_log_alpha(shape, settings.initial_keep_rate, generator)
            .to(device)
            .requires_grad_()
        )
        for name, shape in layout.shapes.items()
    }
    gates = list(log_alpha.values())
    sizes = list(layout.sizes.values())
    optimizer = torch.optim.Adam(gates, lr=settings.learning_rate)
    start = float(keep_probability(torch.logit(torch.tensor(settings.initial_keep_rate))))
    order: list[int] = []
    for step in range(settings.steps):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        sampled = {name: sample_gates(gate, generator) for name, gate in log_alpha.items()}
        loss = loss_of(batches[order.pop()], layout.spread(sampled))
        gradients = torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True)
        for gate, gradient in zip(gates, gradients, strict=True):
            gate.grad = gradient
        optimizer.step()
        progress = min(1.0, (step + 1) / (_WARM_UP * settings.steps))
        with torch.no_grad():
            shift_to_density(gates, sizes, start + progress * (1 - settings.sparsity - start))
        on_step()
    return {name: gate.detach() for name, gate in log_alpha.items()}


def exact_mask(
    log_alpha: Mapping[str, Tensor], layout: GateLayout, sparsity: float
) -> dict[str, Tensor]:
    """Return the masks that keep the gates with the largest log α, as many as come nearest to the sparsity.

    Args:
        log_alpha: Name of a tensor of gates → their location.
        layout: The gates, and how they reach the weights.
        sparsity: Share of the weights to prune.

    Returns:
        Name of a weight → bool tensor that broadcasts to it, on the CPU.
    """
    counts = [gate.numel() for gate in log_alpha.values()]
    sizes = torch.tensor([layout.sizes[name] for name in log_alpha]).repeat_interleave(
        torch.tensor(counts)
    )
    order = torch.cat([gate.flatten().cpu() for gate in log_alpha.values()]).argsort(
        descending=True, stable=True
    )
    kept = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)])
    nearest = int((kept - (1 - sparsity) * float(sizes.sum())).abs().argmin())
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:nearest]] = True
    parts = zip(log_alpha.items(), mask.split(counts), strict=True)
    return layout.spread({name: part.reshape(gate.shape).clone() for (name, gate), part in parts})

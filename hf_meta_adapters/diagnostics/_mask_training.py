"""One mask: gates on frozen weights, trained on the text of a language, then made binary."""

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

# Share of the steps in which the density falls from its initial value to the final one.
_WARM_UP = 0.5


@dataclass(frozen=True)
class MaskTraining:
    """Settings for the training of a mask.

    Attributes:
        sparsity: Share of the weights to prune.
        steps: Number of updates.
        learning_rate: Learning rate of Adam on log α.
        initial_keep_rate: Initial median of the gates.
    """

    sparsity: float
    steps: int
    learning_rate: float
    initial_keep_rate: float


def train_gates(
    gated_loss: GatedLoss,
    layout: GateLayout,
    device: torch.device,
    batches: Sequence[Batch],
    settings: MaskTraining,
    *,
    seed: int,
    on_step: Callable[[], object],
) -> dict[str, Tensor]:
    """Return log α that minimize `E_z L_l(θ ⊙ z)` subject to `E‖z‖₀ = (1 − sparsity) · |θ|`.

    Args:
        gated_loss: The loss as a function of the gates, over frozen θ.
        layout: The gates, and the weights that they stand for.
        device: Device of the gates.
        batches: Text of the language, used in a random order again and again.
        settings: The settings.
        seed: Seed of initial values, gates and the order of batches.
        on_step: Called after each update.

    Returns:
        Name of a tensor of gates → log α.
    """
    # One generator draws initial values, orders and gates in turn: a seed means all of them.
    generator = torch.Generator().manual_seed(seed)
    log_alpha: dict[str, Tensor] = {}
    for name, shape in layout.shapes.items():
        initial = initial_log_alpha(shape, settings.initial_keep_rate, generator)
        log_alpha[name] = initial.to(device).requires_grad_()

    gates = list(log_alpha.values())
    sizes = list(layout.sizes.values())
    optimizer = torch.optim.Adam(gates, lr=settings.learning_rate)

    start = float(keep_probability(torch.logit(torch.tensor(settings.initial_keep_rate))))
    order: list[int] = []
    for step in range(settings.steps):
        if not order:
            order = torch.randperm(len(batches), generator=generator).tolist()

        sampled = {name: sample_gates(gate, generator) for name, gate in log_alpha.items()}
        loss = gated_loss(batches[order.pop()], layout.spread(sampled))

        # Not `backward`, which would leave gradients on whatever else requires them.
        gradients = torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True)
        for gate, gradient in zip(gates, gradients, strict=True):
            gate.grad = gradient
        optimizer.step()

        progress = min(1.0, (step + 1) / (_WARM_UP * settings.steps))
        density = start + progress * (1 - settings.sparsity - start)
        with torch.no_grad():
            shift_to_density(gates, sizes, density)
        on_step()

    return {name: gate.detach() for name, gate in log_alpha.items()}


def exact_mask(
    log_alpha: Mapping[str, Tensor], layout: GateLayout, sparsity: float
) -> dict[str, Tensor]:
    """Return the masks that keep the gates with the largest log α, as near to a sparsity as can be.

    Args:
        log_alpha: Name of a tensor of gates → their locations.
        layout: The gates, and the weights that they stand for.
        sparsity: Share of the weights to prune.

    Returns:
        Name of a weight → bool tensor that broadcasts to it, on the CPU.
    """
    counts = [gate.numel() for gate in log_alpha.values()]
    sizes = torch.tensor([layout.sizes[name] for name in log_alpha])
    sizes = sizes.repeat_interleave(torch.tensor(counts))  # number of weights of each gate

    # Stable, so that equal gates are kept in the order of the model on every machine.
    locations = torch.cat([gate.flatten().cpu() for gate in log_alpha.values()])
    order = locations.argsort(descending=True, stable=True)

    # kept[k]: number of weights that are kept with the k largest gates.
    kept = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)])
    nearest = int((kept - (1 - sparsity) * float(sizes.sum())).abs().argmin())
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:nearest]] = True

    masks: dict[str, Tensor] = {}
    for (name, gate), part in zip(log_alpha.items(), mask.split(counts), strict=True):
        # Cloned: a view would keep, and save, the mask of the whole model.
        masks[name] = part.reshape(gate.shape).clone()
    return layout.spread(masks)

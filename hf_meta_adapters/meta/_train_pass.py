"""Passes over the losses of one language: value and gradient, summed over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._second_order import check_graph, second_order
from hf_meta_adapters.meta.vectors import Vector, add_, detached


@dataclass
class TrainPass:
    """The training loss of one language at the present θ, with its gradients.

    Args:
        losses: The micro-batches; their sum is the loss.
        shared: θ.
        language: φ of this language.
        differentiate: Evaluates and differentiates a loss.
        value: The loss, detached, 0-d.
        shared_gradient: ∇θ of the loss, detached.
        language_gradient: ∇φ of the loss, detached.
        graph: ∇θ with its graph, if it was asked for.
    """

    losses: Sequence[Loss]
    shared: Sequence[Tensor]
    language: Sequence[Tensor]
    differentiate: Differentiate
    value: Tensor
    shared_gradient: Vector
    language_gradient: Vector
    graph: Vector | None = None


def loss_and_gradient(
    losses: Sequence[Loss], parameters: Sequence[Tensor], differentiate: Differentiate
) -> tuple[Tensor, Vector]:
    """The sum of the losses and its gradient, both detached; one graph is alive at a time."""
    total: Vector = [None] * len(parameters)
    values = []
    for loss in losses:
        value, slope = differentiate(loss, parameters)
        add_(total, slope)
        del slope  # before the next pass needs the room
        values.append(value)
    return torch.stack(values).sum(), total


def train_pass(
    losses: Sequence[Loss],
    shared: Sequence[Tensor],
    language: Sequence[Tensor],
    *,
    differentiate: Differentiate,
    keep_graph: bool,
) -> TrainPass:
    """Evaluate the training loss of one language and its gradient for θ and φ.

    Args:
        losses: The micro-batches.
        shared: θ.
        language: φ of this language.
        differentiate: Evaluates and differentiates a loss.
        keep_graph: Keep the graph of ∇θ for a double backward. With several micro-batches none is
            kept: the double backward then evaluates them one by one again.

    Returns:
        The pass.
    """
    parameters = [*shared, *language]
    if keep_graph and len(losses) == 1:
        with second_order():
            value = losses[0]()
            entries = differentiate.gradient(value, parameters, create_graph=True)
            check_graph(entries)
        graph, value = entries[: len(shared)], value.detach()
        entries = detached(entries)
    else:
        graph = None
        value, entries = loss_and_gradient(losses, parameters, differentiate)
    own = entries[len(shared) :]
    return TrainPass(
        losses, shared, language, differentiate, value, entries[: len(shared)], own, graph
    )

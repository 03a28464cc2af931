"""Passes over the losses of one language: value and gradient, summed over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._second_order import check_graph, second_order
from hf_meta_adapters.meta.vectors import Vector, absent, add_, detached


@dataclass(frozen=True)
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

    def parameters(self, *, with_shared: bool) -> list[Tensor]:
        """φ, followed by θ on request."""
        if with_shared:
            return [*self.language, *self.shared]
        return list(self.language)

    def gradient(self, *, with_shared: bool) -> Vector:
        """The gradient of these parameters, in the same order."""
        if with_shared:
            return [*self.language_gradient, *self.shared_gradient]
        return list(self.language_gradient)

    def without_gradients(self, *, keep_language: bool) -> TrainPass:
        """This pass without its ∇θ, and without its ∇φ unless that is kept, to free memory."""
        language_gradient = absent(self.language)
        if keep_language:
            language_gradient = self.language_gradient

        return replace(
            self, shared_gradient=absent(self.shared), language_gradient=language_gradient
        )


def loss_and_gradient(
    losses: Sequence[Loss], parameters: Sequence[Tensor], differentiate: Differentiate
) -> tuple[Tensor, Vector]:
    """The sum of the losses and its gradient, both detached; one graph is alive at a time."""
    total = absent(parameters)
    values = []

    for loss in losses:
        value, gradient = differentiate(loss, parameters)
        add_(total, gradient)
        values.append(value)
        # before the next pass needs the room
        del gradient

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
        keep_graph: Keep the graph of ∇θ for a double backward. With several micro-batches no graph
            is kept: the double backward then evaluates them one by one again.

    Returns:
        The pass.
    """
    parameters = [*shared, *language]
    graph: Vector | None = None

    if keep_graph and len(losses) == 1:
        with second_order():
            value = losses[0]()
            gradient = differentiate.gradient(value, parameters, create_graph=True)
            check_graph(gradient)

        value = value.detach()
        graph = gradient[: len(shared)]
        gradient = detached(gradient)
    else:
        value, gradient = loss_and_gradient(losses, parameters, differentiate)

    return TrainPass(
        losses=losses,
        shared=shared,
        language=language,
        differentiate=differentiate,
        value=value,
        shared_gradient=gradient[: len(shared)],
        language_gradient=gradient[len(shared) :],
        graph=graph,
    )

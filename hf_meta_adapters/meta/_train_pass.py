"""Passes over the losses of one language: value and gradient, summed over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._second_order import check_graph, second_order
from hf_meta_adapters.meta.sampled_losses import IndivisiblePassError, SampledLosses, divided
from hf_meta_adapters.meta.vectors import Vector, absent, add_, detached, mapped, owned


@dataclass(frozen=True)
class TrainPass:
    """The training loss of one language at the present θ, with its gradients.

    Args:
        losses: The micro-batches of which mixed products are taken: all, whose sum is the loss, or
            a sample of them.
        shared: θ.
        language: φ of this language.
        differentiate: Evaluates and differentiates a loss.
        value: The loss, detached, 0-d.
        shared_gradient: ∇θ of the loss, detached.
        language_gradient: ∇φ of the loss, detached.
        product_gradient: ∇φ of the sum of `losses`, detached.
        graph: ∇θ of that sum with its graph, if it was asked for.
        scale: What the mixed products of the sample are multiplied by.
    """

    losses: Sequence[Loss]
    shared: Sequence[Tensor]
    language: Sequence[Tensor]
    differentiate: Differentiate
    value: Tensor
    shared_gradient: Vector
    language_gradient: Vector
    product_gradient: Vector
    graph: Vector | None = None
    scale: float = 1.0

    def parameters(self, *, with_shared: bool) -> list[Tensor]:
        """φ, followed by θ on request."""
        if with_shared:
            return [*self.language, *self.shared]
        return list(self.language)

    def gradient(self, *, with_shared: bool) -> Vector:
        """The gradient of the sum of `losses` for these parameters, in the same order."""
        if with_shared:
            # Only a product of all micro-batches has rows of θ.
            return [*self.product_gradient, *self.shared_gradient]
        return list(self.product_gradient)

    def without_gradients(self, *, keep_product: bool) -> TrainPass:
        """This pass without what its products do not need, to free memory.

        Args:
            keep_product: Whether they need `product_gradient`.
        """
        product_gradient = absent(self.language)
        if keep_product:
            product_gradient = self.product_gradient

        return replace(
            self,
            shared_gradient=absent(self.shared),
            language_gradient=absent(self.language),
            product_gradient=product_gradient,
        )


def loss_and_gradient(
    losses: Sequence[Loss], parameters: Sequence[Tensor], differentiate: Differentiate
) -> tuple[Tensor, Vector]:
    """The sum of the losses and its gradient, both detached; one graph is alive at a time."""
    values, total = [], absent(parameters)

    for number, loss in enumerate(losses):
        value, gradient = differentiate(loss, parameters)
        values.append(value)
        total = _plus(total, gradient, number)
        # before the next pass needs the room
        del gradient

    return torch.stack(values).sum(), total


def _plus(total: Vector, gradient: Vector, number: int) -> Vector:
    """The sum of the gradients of micro-batches, in place; a copy of the first would cost time."""
    if number == 0:
        return owned(gradient)

    add_(total, gradient)
    return total


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
        losses: The micro-batches; of `SampledLosses`, mixed products are taken of the sample.
        shared: θ.
        language: φ of this language.
        differentiate: Evaluates and differentiates a loss.
        keep_graph: Keep the graph of ∇θ for a double backward. If the products are of several
            micro-batches no graph is kept: the double backward evaluates them one by one again.

    Returns:
        The pass.
    """
    parameters = [*shared, *language]
    graph: Vector | None = None

    parts = divided(losses)
    if keep_graph and len(parts.sample) == 1:
        with second_order():
            value = parts.sample[0]()
            gradient = differentiate.gradient(value, parameters, create_graph=True)
            check_graph(gradient)

        value = value.detach()
        graph = gradient[: len(shared)]
        gradient = detached(gradient)
        product_gradient = _kept(gradient[len(shared) :], parts)
        value, gradient = _with_rest(parts, value, gradient, parameters, differentiate)
    else:
        value, gradient, product_gradient = _gradients(parts, shared, language, differentiate)

    return TrainPass(
        losses=parts.sample,
        shared=shared,
        language=language,
        differentiate=differentiate,
        value=value,
        shared_gradient=gradient[: len(shared)],
        language_gradient=gradient[len(shared) :],
        product_gradient=product_gradient,
        graph=graph,
        scale=parts.scale,
    )


def _gradients(
    parts: SampledLosses,
    shared: Sequence[Tensor],
    language: Sequence[Tensor],
    differentiate: Differentiate,
) -> tuple[Tensor, Vector, Vector]:
    """The loss, its gradient for θ and φ, and the gradient of the sample for φ, all detached."""
    try:
        if parts.common:
            return _in_common(parts, shared, language, differentiate)
    except IndivisiblePassError:
        pass

    parameters = [*shared, *language]
    value, gradient = loss_and_gradient(parts.sample, parameters, differentiate)
    product_gradient = _kept(gradient[len(shared) :], parts)
    return *_with_rest(parts, value, gradient, parameters, differentiate), product_gradient


def _in_common(
    parts: SampledLosses,
    shared: Sequence[Tensor],
    language: Sequence[Tensor],
    differentiate: Differentiate,
) -> tuple[Tensor, Vector, Vector]:
    """The same from one pass for each micro-batch, whose sample has a φ of its own."""
    count = len(shared) + len(language)
    values, total = [], absent([*shared, *language, *language])

    for number, loss in enumerate(parts.common):
        value, own = loss(language)
        gradient = differentiate.gradient(value, [*shared, *language, *own])
        values.append(value.detach())
        total = _plus(total, gradient, number)
        # before the next pass needs the room
        del value, gradient

    # φ itself has the gradient of the rest
    product_gradient = total[count:]
    add_(total, [*absent(shared), *product_gradient, *absent(language)])
    return torch.stack(values).sum(), total[:count], product_gradient


def _kept(gradient: Vector, parts: SampledLosses) -> Vector:
    """The gradient of the sample, where the gradient of the rest is added in place."""
    if not parts.rest:
        return gradient
    return mapped(gradient, Tensor.clone)


def _with_rest(
    parts: SampledLosses,
    value: Tensor,
    gradient: Vector,
    parameters: Sequence[Tensor],
    differentiate: Differentiate,
) -> tuple[Tensor, Vector]:
    """The loss and the gradient of the sample with those of the rest, in the same memory."""
    if not parts.rest:
        return value, gradient

    other_value, other = loss_and_gradient(parts.rest, parameters, differentiate)
    add_(gradient, other)
    return value + other_value, gradient

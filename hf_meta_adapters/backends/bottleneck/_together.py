"""The adapters of several languages as one product of matrices, for equally many rows of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def alike(*parts: Sequence[nn.Module]) -> bool:
    """Whether adapters can be applied together: they differ in the values of their weights alone.

    Args:
        *parts: The projections down, those up, the activations, and the dropouts of the adapters.
    """
    down, up, activations, dropouts = parts
    for layers in (down, up):
        # Of a layer that is watched, wrapped or replaced, the weights are not all there is to it.
        if any(type(layer) is not nn.Linear or _is_watched(layer) for layer in layers):
            return False
        if len({(layer.weight.shape, layer.weight.dtype) for layer in layers}) > 1:
            return False
        if any(type(layer.weight) is not nn.Parameter for layer in layers):
            return False

    is_plain = not any(list(activation.parameters()) for activation in activations)
    rates = {dropout.p for dropout in dropouts if isinstance(dropout, nn.Dropout)}
    return is_plain and len({type(one) for one in activations}) == 1 and len(rates) == 1


def changes(
    hidden: Tensor, down: Sequence[nn.Linear], up: Sequence[nn.Linear], activation: nn.Module
) -> Tensor:
    """Compute up_l(act(down_l(h))) for the rows of each language l.

    Args:
        hidden: The rows, equally many of each language, one language after the other, of shape
            (L · B, ..., d) and in the type of the adapters.
        down: The projections of the languages to the width r of the bottleneck.
        up: Those back to the width d.
        activation: The activation.

    Returns:
        The changes, in the shape of the rows.
    """
    # The weights come first in the products, so that their gradients are contiguous: optimizers
    # with fused kernels expect it.
    inputs = hidden.reshape(len(down), -1, hidden.shape[-1]).transpose(1, 2)  # (L, d, N)
    inner = activation(_projected(inputs, down))  # (L, r, N)
    return _projected(inner, up).transpose(1, 2).reshape(hidden.shape)


def _projected(inputs: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """W_l x + b_l for each language l."""
    weights = torch.stack([layer.weight for layer in layers])
    products = torch.bmm(weights, inputs)
    biases = torch.stack([layer.bias for layer in layers])
    return products + biases.unsqueeze(2).to(products.dtype)


def _is_watched(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)

"""Linear layers of an adapter whose first rows have leaves of their own for the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

CALLS_LINEARS = "calls_linears"
"""The attribute by which a layer says that it uses its adapters by calling their linear layers."""


def has_linears_alone(layers: Sequence[Any], name: str) -> bool:
    """Whether an adapter consists of plain linear layers, which all layers call.

    Args:
        layers: The layers of PEFT.
        name: The name of the adapter.
    """
    for layer in layers:
        # Others, such as that of attention, use the weights without calling the linear layers.
        is_plain_lora = type(layer) is LoraLinear and name not in layer.lora_variant
        if not is_plain_lora and not getattr(layer, CALLS_LINEARS, False):
            return False

        for part in _parts(layer, name):
            if next(part.parameters(), None) is not None and not _is_plain(part):
                return False

    return True


@contextmanager
def divided_linears(
    layers: Sequence[Any], name: str, first: int, rows: int
) -> Iterator[Mapping[int, Tensor]]:
    """A context in which the first rows of a batch have leaves of their own for an adapter.

    The forward pass is that of an undivided batch. In the backward pass, the gradient for these
    leaves is that of the first rows alone, and the gradient for the adapter that of the others. So
    it costs no more than a pass without division; a twin would make two layers of each.

    Args:
        layers: The layers of PEFT, for which `has_linears_alone` holds.
        name: The name of the adapter.
        first: How many rows come first.
        rows: How many rows the batch has.

    Yields:
        The `id` of each parameter of the adapter → the leaf of the first rows.
    """
    leaves: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            for part in _parts(layer, name):
                if isinstance(part, nn.Linear):
                    stack.enter_context(_divided(part, leaves, first, rows))
        yield leaves


def _parts(layer: Any, name: str) -> list[nn.Module]:
    """The modules of an adapter in a layer."""
    places = [getattr(layer, place) for place in layer.adapter_layer_names]
    places += [getattr(layer, place) for place in layer.other_param_names]
    return [place[name] for place in places if isinstance(place, nn.ModuleDict) and name in place]


def _is_plain(part: nn.Module) -> bool:
    """Whether a module computes W x + b from leaves, and nothing has been put in the way."""
    is_linear = type(part) is nn.Linear and "forward" not in vars(part)
    return is_linear and all(type(own) is nn.Parameter for own in part.parameters())


@contextmanager
def _divided(linear: nn.Linear, leaves: dict[int, Tensor], first: int, rows: int) -> Iterator[None]:
    """A context in which a linear layer is divided; its leaves are added to `leaves`."""
    own: list[Tensor | None] = []
    for parameter in (linear.weight, linear.bias):
        leaf = None
        if parameter is not None:
            leaf = parameter.detach().requires_grad_(parameter.requires_grad)
            leaves[id(parameter)] = leaf
        own.append(leaf)

    # `nn.Module.__call__` prefers it to the method of the class.
    vars(linear)["forward"] = partial(_forward, linear, own, first, rows)
    try:
        yield
    finally:
        del vars(linear)["forward"]


def _forward(
    linear: nn.Linear, own: Sequence[Tensor | None], first: int, rows: int, inputs: Tensor
) -> Tensor:
    """W x + b."""
    if len(inputs) != rows:
        raise ValueError(
            f"An input must have an entry for each of {rows} rows. It has {len(inputs)}."
        )

    tensors = [inputs, linear.weight, linear.bias, *own]
    device = inputs.device.type

    # Autocast acts in the forward pass of a function, and not in its backward pass.
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]

    output: Tensor = _DividedLinear.apply(first, *tensors)
    return output


class _DividedLinear(torch.autograd.Function):
    """y = W x + b of inputs (B, ..., in), with two pairs of leaves that have the same values.

    For the first F rows and the others, with ȳ the gradient for y,

        W̄_own = Σ_{n<F} ȳ_n x_nᵀ,   W̄ = Σ_{n≥F} ȳ_n x_nᵀ,   b̄ likewise,   x̄ = Wᵀ ȳ for all rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        first: int,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        own_weight: Tensor,
        own_bias: Tensor | None,
    ) -> Tensor:
        """Compute it for all rows at once."""
        ctx.save_for_backward(inputs, weight)
        ctx.first = first
        return functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Divide the rows for the weights alone.

        It can be differentiated again, for W and its leaf of the first rows together.
        """
        (gradient,), (inputs, weight) = gradients, ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        found: list[Tensor | None] = [None] * 5

        if needed[0]:
            found[0] = gradient @ weight

        parts = slice(ctx.first, None), slice(None, ctx.first)
        for place, part in zip((1, 3), parts, strict=True):
            above = gradient[part].flatten(0, -2)
            if needed[place]:
                found[place] = above.transpose(0, 1) @ inputs[part].flatten(0, -2)
            if needed[place + 1]:
                found[place + 1] = above.sum(0)

        return None, *found

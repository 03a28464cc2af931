"""Which weights a gate of a mask stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from hf_meta_adapters.anatomy.attention_heads import (
    attention_of_parameter,
    head_of_outputs,
    is_transposed,
)
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["GateLayout", "Granularity", "gate_layout"]

Granularity: TypeAlias = Literal["weight", "neuron", "head", "module"]


@dataclass(frozen=True)
class GateLayout:
    """The tensors of gates, and the weights that they stand for.

    Attributes:
        shapes: Name of a tensor of gates → its shape.
        sizes: Name of a tensor of gates → number of weights that each of its gates stands for.
        heads: Name of a weight → name of the gates of its heads, and numbers of the heads,
            broadcast to the weight. Empty where every weight has gates under its own name.
    """

    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    heads: dict[str, tuple[str, Tensor]]

    def spread(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return name of a weight → gates that broadcast to it.

        Args:
            gates: Name of a tensor of gates → the gates, or any other number of each gate.
        """
        if not self.heads:
            return dict(gates)

        of_weights: dict[str, Tensor] = {}
        for name, (attention, numbers) in self.heads.items():
            # Every output gets the gate of its head.
            of_heads = gates[attention]
            of_weights[name] = of_heads[numbers.to(of_heads.device)]

        return of_weights


def gate_layout(
    model: nn.Module, weights: Mapping[str, Tensor], granularity: Granularity
) -> GateLayout:
    """Return the gates of some weights: one per weight, output neuron, attention head or module.

    Args:
        model: The model.
        weights: Name → weight.
        granularity: What a gate stands for. With `"head"`, only the weights of queries, keys and
            values have gates.

    Returns:
        The layout.

    Raises:
        ConfigurationError: If there are no heads, or they cannot be found.
    """
    if granularity == "head":
        return _layout_of_heads(model, weights)

    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for name, weight in weights.items():
        shapes[name] = _shape(model, name, weight, granularity)
        sizes[name] = weight.numel() // weight.new_empty(shapes[name]).numel()

    return GateLayout(shapes, sizes, {})


def _shape(
    model: nn.Module, name: str, weight: Tensor, granularity: Granularity
) -> tuple[int, ...]:
    """Return the shape of the gates of a weight, which broadcasts to that of the weight."""
    if granularity == "weight":
        return tuple(weight.shape)

    shape = [1] * weight.dim()
    if granularity == "neuron":
        outputs = 0
        if is_transposed(model, name):
            outputs = weight.dim() - 1  # of a bias, this is its one dimension
        shape[outputs] = weight.shape[outputs]

    return tuple(shape)


def _layout_of_heads(model: nn.Module, weights: Mapping[str, Tensor]) -> GateLayout:
    heads: dict[str, tuple[str, Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}

    for name, weight in weights.items():
        attention = attention_of_parameter(name)
        if attention is None:
            continue

        numbers = head_of_outputs(model, name, weight)
        count = int(numbers.max()) + 1

        # Query, key and value share the gates of their attention module.
        shapes[attention] = (count,)
        sizes[attention] = sizes.get(attention, 0) + weight.numel() // count
        heads[name] = attention, numbers.reshape(_shape(model, name, weight, "neuron"))

    if not heads:
        raise ConfigurationError(
            "A gate per head needs weights of queries, keys and values, with names such as `query`,"
            f" `q_proj` or `c_attn`. Found none among {list(weights)[:3]} ... Use"
            ' `granularity="neuron"`.'
        )

    return GateLayout(shapes, sizes, heads)

"""Which weights a gate of a mask stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from hf_meta_adapters.anatomy.attention_heads import attention_of_parameter, head_of_outputs, is_transposed
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["GateLayout", "Granularity", "gate_layout"]

Granularity: TypeAlias = Literal["weight", "neuron", "head", "module"]


@dataclass(frozen=True)
class GateLayout:
    """The tensors of gates, and how they reach the weights.

    Attributes:
        shapes: Name of a tensor of gates → its shape.
        sizes: Name of a tensor of gates → number of weights that one of its gates stands for.
        heads: Name of a weight → name of the gates of its heads, and numbers of the heads,
            broadcast to the weight; empty where each weight has gates of its own under its own
            name.
    """

    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    heads: dict[str, tuple[str, Tensor]]

    def spread(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return name of a weight → gates that broadcast to it.

        Args:
            gates: Name of a tensor of gates → gates, or anything else of each gate.
        """
        if not self.heads:
            return dict(gates)
        return {
            name: gates[owner][numbers.to(gates[owner].device)]
            for name, (owner, numbers) in self.heads.items()
        }


def gate_layout(
    model: nn.Module, weights: Mapping[str, Tensor], granularity: Granularity
) -> GateLayout:
    """Return the gates of some weights: one per weight, output neuron, attention head or module.

    Args:
        model: The model.
        weights: Name → weight.
        granularity: What a gate stands for. With `"head"`, weights outside of query, key and value
            have no gate.

    Returns:
        The layout.

    Raises:
        ConfigurationError: If heads cannot be found.
    """
    if granularity == "head":
        return _layout_of_heads(model, weights)
    shapes = {name: _shape(model, name, weight, granularity) for name, weight in weights.items()}
    sizes = {
        name: weight.numel() // weight.new_empty(shapes[name]).numel()
        for name, weight in weights.items()
    }
    return GateLayout(shapes, sizes, {})


def _shape(
    model: nn.Module, name: str, weight: Tensor, granularity: Granularity
) -> tuple[int, ...]:
    if granularity == "weight":
        return tuple(weight.shape)
    shape = [1] * weight.dim()
    if granularity == "neuron":
        outputs = weight.dim() - 1 if is_transposed(model, name) else 0
        shape[outputs] = weight.shape[outputs]
    return tuple(shape)


def _layout_of_heads(model: nn.Module, weights: Mapping[str, Tensor]) -> GateLayout:
    heads: dict[str, tuple[str, Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for name, weight in weights.items():
        owner = attention_of_parameter(name)
        if owner is None:
            continue
        numbers = head_of_outputs(model, name, weight)
        count = int(numbers.max()) + 1
        shapes[owner] = (count,)
        sizes[owner] = sizes.get(owner, 0) + weight.numel() // count
        heads[name] = owner, numbers.reshape(_shape(model, name, weight, "neuron"))
    if not heads:
        raise ConfigurationError(
            "A gate per head needs weights of queries, keys and values, with names such as `query`,"
            " `q_proj` or "
            f'`c_attn`. Found none among {list(weights)[:3]} ... Write `granularity="neuron"`.'
        )
    return GateLayout(shapes, sizes, heads)

"""Which outputs of query, key and value belong to which attention head."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["attention_of", "head_of_outputs", "is_transposed"]

_NAME = re.compile(
    r"(?:(.+)\.)?((?:q|k|v|query|key|value)(?:_(?:proj|lin|linear))?|query_key_value|Wqkv|c_attn)"
    r"(?:\.base_layer)?\.(?:weight|bias)"
)

_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads")
_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim")


def attention_of(name: str) -> str | None:
    """Return the attention module whose query, key or value a parameter computes; `None` for other parameters.

    Args:
        name: A name in `named_parameters()`, with or without an adapter around the projection.

    Returns:
        Name of the attention module.

    Example:
        >>> attention_of("encoder.layer.3.attention.self.query.weight")
        'encoder.layer.3.attention.self'
        >>> attention_of("encoder.layer.3.attention.output.dense.weight")
    """
    found = _split(name)
    return found[0] if found else None


def head_of_outputs(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Return, for each output of a projection, the number of the head whose query, key or value it is a part of.

    Query heads that share a key and a value (grouped queries) are one head here: a head that lost
    nothing but its query still attends, to all positions alike.

    Args:
        model: The model. The attributes of the attention module say how many heads there are, or
            else its `config`, or that of a module around it.
        name: Name of the weight or bias of the query, the key, the value, or of one projection to
            all three.
        weight: The weight or bias.

    Returns:
        Numbers from 0, shape (outputs,).

    Raises:
        ConfigurationError: If the number of heads cannot be found, or does not fit the outputs.
    """
    attention, projection = _split(name) or ("", "")
    heads = _number(model, attention, _HEADS)
    if heads is None:
        raise ConfigurationError(
            f"A gate per head needs the number of heads. Found none of {list(_HEADS)} on"
            f" `{attention}`, a `{type(model.get_submodule(attention)).__name__}`, or in the config"
            ' of the model. Set one of them, or write `granularity="neuron"`.'
        )
    groups = _number(model, attention, _KEY_VALUE_HEADS) or heads
    transposed = is_transposed(model, name)
    order = _order(projection, heads, groups, transposed=transposed)
    outputs = weight.shape[-1 if transposed else 0]
    width = _number(model, attention, _WIDTH) or outputs // len(order)
    if len(order) * width != outputs or heads % groups:
        raise ConfigurationError(
            f"A gate per head needs projections of heads × width outputs. Found {outputs} outputs"
            f" of `{name}`, for {heads} heads with {groups} keys and values of width {width}. Name"
            ' others with `parameters`, or write `granularity="neuron"`.'
        )
    return order.repeat_interleave(width)


def is_transposed(model: nn.Module, name: str) -> bool:
    """Return whether a weight is stored as (inputs, outputs), as in the `Conv1D` of GPT-2, not (outputs, inputs)."""
    return type(model.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D"


def _split(name: str) -> tuple[str, str] | None:
    """Return the names of the attention module and of the projection in it."""
    found = _NAME.fullmatch(name)
    return (found[1] or "", found[2]) if found else None


def _order(projection: str, heads: int, groups: int, *, transposed: bool) -> Tensor:
    """Return the heads that the blocks of outputs of a projection belong to, one after the other."""
    of_query, of_value = torch.arange(heads) * groups // heads, torch.arange(groups)
    if projection == "Wqkv" or (projection == "c_attn" and transposed):  # GPT-2, ModernBERT, MPT
        return torch.cat([of_query, of_value, of_value])
    if projection in (
        "query_key_value",
        "c_attn",
    ):  # head by head: BLOOM, GPT-NeoX, Falcon, GPT-BigCode
        return of_value.repeat_interleave(heads // groups + 2)
    return of_query if projection.startswith("q") else of_value


def _number(model: nn.Module, attention: str, names: tuple[str, ...]) -> int | None:
    """Return the first of these attributes that the attention module has, or a config of it or of what is around it."""
    places = (model.get_submodule(attention), *_configs(model, attention))
    found = (getattr(place, name, None) for place in places for name in names)
    return next((number for number in found if isinstance(number, int) and number > 0), None)


def _configs(model: nn.Module, attention: str) -> Iterator[Any]:
    """Yield the configs of the attention module and of all that it lies in, the innermost first."""
    parts = attention.split(".")
    for end in range(len(parts), -1, -1):
        config = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if config is not None:
            yield config

"""The attention head that each output of a query, key or value projection belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hf_meta_adapters.anatomy._attributes import attribute
from hf_meta_adapters.anatomy.linear_layers import is_conv1d
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["attention_of_parameter", "head_of_outputs", "is_transposed"]

_NAME = re.compile(
    r"(?:(.+)\.)?((?:q|k|v|query|key|value)(?:_(?:proj|lin|linear))?|query_key_value|Wqkv|c_attn)"
    r"(?:\.base_layer)?\.(?:weight|bias)"
)

_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads")
_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim")


def attention_of_parameter(name: str) -> str | None:
    """Return the attention module whose query, key or value a parameter computes, if any.

    That is the direct parent of the projection; compare `projections.enclosing_attention`, which
    names the module around the whole of attention.

    Args:
        name: A name in `named_parameters()`, with or without an adapter around the projection.

    Returns:
        Name of the attention module; `None` for other parameters.

    Example:
        >>> attention_of_parameter("encoder.layer.3.attention.self.query.weight")
        'encoder.layer.3.attention.self'
        >>> attention_of_parameter("encoder.layer.3.attention.output.dense.weight")
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None

    return match[1] or ""


def head_of_outputs(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Return the number of the head that each output of a projection belongs to.

    Query heads that share a key and a value (grouped queries) count as one head: a head that loses
    nothing but its query still attends, to all positions alike.

    Args:
        model: The model. The number of heads is read from the attention module, or else from its
            `config`, or from the `config` of a module around it.
        name: Name of the weight or bias of the query, the key, the value, or of one projection to
            all three.
        weight: The weight or bias.

    Returns:
        Numbers from 0, shape (outputs,).

    Raises:
        ConfigurationError: If the number of heads cannot be found, or does not fit the outputs.
    """
    attention = attention_of_parameter(name) or ""
    heads = _first_positive(model, attention, _HEADS)
    if heads is None:
        raise ConfigurationError(
            f"A gate per head needs the number of heads. Found none of {list(_HEADS)} on"
            f" `{attention}`, a `{type(model.get_submodule(attention)).__name__}`, or in the config"
            ' of the model. Set one of them, or use `granularity="neuron"`.'
        )

    groups = _first_positive(model, attention, _KEY_VALUE_HEADS) or heads
    transposed = is_transposed(model, name)
    head_of_block = _head_of_blocks(name, heads, groups, transposed=transposed)

    outputs = weight.shape[-1 if transposed else 0]
    width = _first_positive(model, attention, _WIDTH) or outputs // len(head_of_block)
    if len(head_of_block) * width != outputs or heads % groups:
        raise ConfigurationError(
            f"A gate per head needs projections of heads × width outputs. Found {outputs} outputs"
            f" of `{name}`, for {heads} heads with {groups} keys and values of width {width}."
            ' Select other weights with `parameters`, or use `granularity="neuron"`.'
        )

    return head_of_block.repeat_interleave(width)


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a weight is stored as (inputs, outputs), as in the `Conv1D` of GPT-2.

    Args:
        model: The model.
        name: Name of the weight or bias in it.
    """
    return is_conv1d(model.get_submodule(name.rpartition(".")[0]))


def _head_of_blocks(name: str, heads: int, groups: int, *, transposed: bool) -> Tensor:
    """Return the head of each block of outputs, where a block is a query, a key or a value."""
    match = _NAME.fullmatch(name)
    projection = match[2] if match else ""
    of_queries = torch.arange(heads) * groups // heads
    of_values = torch.arange(groups)

    # All queries, then all keys, then all values: GPT-2, ModernBERT, MPT.
    if projection == "Wqkv" or (projection == "c_attn" and transposed):
        return torch.cat([of_queries, of_values, of_values])

    # Head by head, its queries before its key and value: BLOOM, GPT-NeoX, Falcon, GPT-BigCode.
    if projection in ("query_key_value", "c_attn"):
        return of_values.repeat_interleave(heads // groups + 2)

    if projection.startswith("q"):
        return of_queries

    return of_values


def _first_positive(model: nn.Module, attention: str, names: tuple[str, ...]) -> int | None:
    """Return the first of some numbers that the attention module, or a config around it, has."""
    for owner in (model.get_submodule(attention), *_configs(model, attention)):
        for name in names:
            number = attribute(owner, name, int)
            if number is not None and number > 0:
                return number

    return None


def _configs(model: nn.Module, attention: str) -> Iterator[object]:
    """Yield the configs of the attention module and of all modules around it, innermost first."""
    parts = attention.split(".")

    for end in range(len(parts), -1, -1):
        config = attribute(model.get_submodule(".".join(parts[:end])), "config", object)
        if config is not None:
            yield config

"""The output projections of attention and feed-forward, found in a model by structure.

This is where bottleneck adapters go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from torch import nn

from hf_meta_adapters.anatomy.linear_layers import (
    Features,
    describe_linear_layers,
    linear_layers,
    name_pattern,
)
from hf_meta_adapters.anatomy.towers import text_modules
from hf_meta_adapters.errors import UnsupportedModelError

__all__ = [
    "attention_outputs",
    "attentions_without_feed_forward",
    "enclosing_attention",
    "feed_forward_layer",
    "feed_forward_outputs",
    "layer_number",
    "output_projections",
    "text_layers",
]

_ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
_ATTENTION_LIST = re.compile(r"(\w+_)?att(n|ention)s?", re.IGNORECASE)
_ATTENTION_INPUT = re.compile(r"(^|_)W?(q|k|v|qk|kv|qkv|query|key|value|gate)(_|$)")
_EXPERT = re.compile(r"expert|router|\.gate$", re.IGNORECASE)


def output_projections(
    model: nn.Module,
    *,
    attention: bool = True,
    feed_forward: bool = True,
    layers: Collection[int] | None = None,
) -> list[str]:
    """Return the last linear layer of every attention and feed-forward in the numbered layers.

    - *Attention*: a module in a numbered layer whose name contains `attn` or `attention`. Its
      output projection is its last linear layer that is not named like a query, key, value or gate.
      Cross-attention counts like self-attention, so a layer of a decoder that reads an encoder has
      two. In a model with a numbered list for each kind of sublayer (XLM: `attentions.3` and
      `ffns.3`), the entries of equal number are a numbered layer.
    - *Feed-forward*: among the linear layers of the same numbered layer outside attention, the last
      one that maps to the width of the attention's output from an input at least as wide. Experts
      of a mixture are not feed-forwards.

    In a model with towers for images or sounds, only the text model counts.

    Args:
        model: The model, with or without adapters in it.
        attention: Whether to include the output projections of attention.
        feed_forward: Whether to include those of the feed-forward sublayers.
        layers: Include only layers with these numbers, in the encoder and the decoder alike; all by
            default.

    Returns:
        Names of modules, in the order of registration.

    Raises:
        UnsupportedModelError: If there is no attention, or a layer has attention but no
            feed-forward.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> config = BertConfig(**sizes, intermediate_size=16, vocab_size=9)
        >>> output_projections(BertModel(config))
        ['encoder.layer.0.attention.output.dense', 'encoder.layer.0.output.dense']
    """
    linears = text_layers(model)
    attentions = attention_outputs(linears)
    if not attentions:
        raise _not_found("attention in a numbered layer", model)

    chosen: set[str] = set()
    if attention:
        chosen.update(attentions.values())
    if feed_forward:
        forwards = feed_forward_outputs(linears, attentions)
        incomplete = attentions_without_feed_forward(attentions, forwards)
        if incomplete:
            raise _not_found(f"feed-forward next to {name_pattern(incomplete[0])}", model)
        chosen.update(forwards.values())

    names = [name for name in linears if name in chosen]
    if layers is None:
        return names

    return [name for name in names if layer_number(name) in layers]


def text_layers(model: nn.Module) -> dict[str, Features]:
    """Return the linear layers of the text model: name → (in, out) features."""
    linears = linear_layers(model)
    return {name: linears[name] for name in text_modules(model, list(linears))}


def attention_outputs(linears: Mapping[str, Features]) -> dict[str, str]:
    """Return the output projection of each attention module.

    Args:
        linears: Name → features of the linear layers of a model.

    Returns:
        Attention module → name of its output projection.
    """
    outputs: dict[str, str] = {}

    for name in linears:
        attention = enclosing_attention(name)
        if attention is not None and not _ATTENTION_INPUT.search(name.rpartition(".")[2]):
            outputs[attention] = name  # a later one replaces it: the output comes last

    return outputs


def feed_forward_outputs(
    linears: Mapping[str, Features], attentions: Mapping[str, str]
) -> dict[str, str]:
    """Return the output projection of the feed-forward of each numbered layer.

    Args:
        linears: Name → features of the linear layers of a model.
        attentions: Attention module → its output projection.

    Returns:
        Numbered layer → name of the output projection of its feed-forward.
    """
    # The residual stream ties the two: a feed-forward ends in the width in which attention ends.
    widths: dict[str, int] = {}
    for attention, output in attentions.items():
        width = linears[output][1]
        widths.update(dict.fromkeys(_layers_of_attention(attention), width))

    outputs: dict[str, str] = {}
    for name, (inputs, width) in linears.items():
        layer = feed_forward_layer(name, widths)
        if layer is not None and width == widths[layer] and inputs >= width:
            outputs[layer] = name

    return outputs


def feed_forward_layer(name: str, layers: Collection[str]) -> str | None:
    """Return which of some numbered layers a linear layer is a feed-forward part of.

    Args:
        name: Name of the linear layer.
        layers: Names of the numbered layers.

    Returns:
        The innermost layer, or one across lists such as `"transformer.*.3"`; `None` for what lies
        in none of them, in attention or in an expert.
    """
    if enclosing_attention(name) is not None or _EXPERT.search(name):
        return None

    prefixes = [*_numbered_prefixes(name), *_layer_across_lists(name)]
    return next((prefix for prefix in prefixes if prefix in layers), None)


def attentions_without_feed_forward(
    attentions: Collection[str], forwards: Collection[str]
) -> list[str]:
    """Return the attention modules in whose numbered layer no feed-forward was found.

    Args:
        attentions: Names of the attention modules.
        forwards: The numbered layers that have a feed-forward.
    """
    layers = set(forwards)
    return [name for name in attentions if layers.isdisjoint(_layers_of_attention(name))]


def enclosing_attention(name: str) -> str | None:
    """Return the innermost attention module of a numbered layer that holds a linear layer, if any.

    That is any module whose name contains `attn` or `attention`, with all that it holds; compare
    `attention_heads.attention_of_parameter`, which names the direct parent of a query, key or
    value.

    Example:
        >>> enclosing_attention("encoder.layer.3.attention.self.query")
        'encoder.layer.3.attention'
        >>> enclosing_attention("encoder.layer.3.output.dense")
        >>> enclosing_attention("transformer.attentions.3.out_lin")
        'transformer.attentions.3'
    """
    parts = name.split(".")

    for end in range(len(parts) - 1, 0, -1):
        if _ATTENTION.search(parts[end - 1]) and any(part.isdigit() for part in parts[:end]):
            return ".".join(parts[:end])

    # a list of attentions, next to lists of the other sublayers
    first = _first_number(parts)
    if not first or first == len(parts) - 1 or not _ATTENTION_LIST.fullmatch(parts[first - 1]):
        return None

    return ".".join(parts[: first + 1])


def layer_number(name: str) -> int:
    """Return the number of the layer that a module lies in: the first number in its name.

    Example:
        >>> layer_number("decoder.block.3.layer.1.EncDecAttention.o")
        3
    """
    return next(int(part) for part in name.split(".") if part.isdigit())


def _numbered_prefixes(name: str) -> Iterator[str]:
    """Yield a name up to each of its numbers, the longest first."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit():
            yield ".".join(parts[:end])


def _layers_of_attention(attention: str) -> list[str]:
    """Return the layers that an attention module lies in, the innermost first."""
    # an entry of a list of attentions holds nothing else of its layer
    if attention.rpartition(".")[2].isdigit():
        return _layer_across_lists(attention)

    return list(_numbered_prefixes(attention))


def _layer_across_lists(name: str) -> list[str]:
    """Return the layer of what has the same first number in lists side by side, if any.

    In XLM, both `transformer.attentions.3.out_lin` and `transformer.ffns.3.lin2` lie in
    `transformer.*.3`.
    """
    parts = name.split(".")
    first = _first_number(parts)
    if not first:
        return []

    return [".".join([*parts[: first - 1], "*", parts[first]])]


def _first_number(parts: list[str]) -> int | None:
    return next((index for index, part in enumerate(parts) if part.isdigit()), None)


def _not_found(what: str, model: nn.Module) -> UnsupportedModelError:
    return UnsupportedModelError(
        "Bottleneck adapters go behind the output projections of attention and feed-forward, which"
        f" must be found in the model. Found no {what} in {describe_linear_layers(model)}. Name the"
        " projections to use by the ends of their names, for example"
        ' `BottleneckConfig(target_modules=["attention.output.dense", "output.dense"])`.'
    )

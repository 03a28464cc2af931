"""Where bottleneck adapters go: the output projections of attention and feed-forward, found in a model by structure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_meta_adapters.errors import UnsupportedModelError

_ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
_ATTENTION_INPUT = re.compile(r"(^|_)W?(q|k|v|qk|kv|qkv|query|key|value|gate)(_|$)")
EXPERT = re.compile(r"expert|router|\.gate$", re.IGNORECASE)

Features = tuple[int, int]


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of everything in the model but what lies inside an adapted, copied or fused module."""
    closed: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(closed):
            continue
        # `nn.MultiheadAttention` reads the weight of its projection and never calls it: nothing may
        # stand behind it.
        if (
            hasattr(module, "base_layer")
            or hasattr(module, "original_module")
            or isinstance(module, nn.MultiheadAttention)
        ):
            closed += (f"{name}.",)
        yield name, module


def linear_layers(model: nn.Module) -> dict[str, Features]:
    """Name → (in, out) features of every linear layer, quantised or not, adapted or not, in order of registration."""
    found = {name: features_of(module) for name, module in own_modules(model)}
    return {name: features for name, features in found.items() if features is not None}


def features_of(module: nn.Module) -> Features | None:
    """The (in, out) features of a linear layer of torch, of GPT-2 or of a quantisation library; `None` for others."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    for names in (("in_features", "out_features"), ("infeatures", "outfeatures")):
        found = [getattr(module, name, None) for name in names]
        if isinstance(found[0], int) and isinstance(found[1], int):
            return found[0], found[1]
    return None


def output_projections(
    model: nn.Module,
    *,
    attention: bool = True,
    feed_forward: bool = True,
    layers: Collection[int] | None = None,
) -> list[str]:
    """The last linear layer of every attention and of every feed-forward sublayer in the numbered layers of a model.

    - *Attention*: within a numbered layer, a module whose name holds `attn` or `attention`; its
      output projection is its last linear layer that is not named as a query, key, value or gate.
      Cross-attention counts like self-attention, so a layer of an encoder-decoder's decoder has
      two.
    - *Feed-forward*: of the linear layers of the same numbered layer outside of attention, the last
      one that maps to the width of the attention's output and from no narrower an input. Experts of
      a mixture are not feed-forwards.

    Args:
        model: The model, with or without adapters in it.
        attention: Whether to look for those of attention.
        feed_forward: Whether to look for those of the feed-forward sublayers.
        layers: Take only layers of these numbers, in the encoder and in the decoder alike; by
            default all.

    Returns:
        Names of modules, in the order of registration.

    Raises:
        UnsupportedModelError: If no attention is found, or a layer that has attention but no
            feed-forward.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> output_projections(BertModel(BertConfig(**sizes)))
        ['encoder.layer.0.attention.output.dense', 'encoder.layer.0.output.dense']
    """
    linears = linear_layers(model)
    attentions = attention_outputs(linears)
    if not attentions:
        raise _missing("attention in a numbered layer", model)
    forwards = feed_forward_outputs(linears, attentions) if feed_forward else {}
    alone = [
        group for group in attentions if not any(layer in forwards for layer in numbered(group))
    ]
    if feed_forward and alone:
        raise _missing(f"feed-forward beside {_pattern(alone[0])}", model)
    chosen = {*(attentions.values() if attention else ()), *forwards.values()}
    return [
        name
        for name in linears
        if name in chosen and (layers is None or layer_number(name) in layers)
    ]


def layer_number(name: str) -> int:
    """The number of the layer that a module lies in: the first number in its name.

    Example:
        >>> layer_number("decoder.block.3.layer.1.EncDecAttention.o")
        3
    """
    return next(int(part) for part in name.split(".") if part.isdigit())


def numbered(name: str) -> Iterator[str]:
    """The parts of a name up to each of its numbers, the longest first."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit():
            yield ".".join(parts[:end])


def attention_of(name: str) -> str | None:
    """The innermost attention module that a linear layer belongs to, if any and if in a numbered layer."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if _ATTENTION.search(parts[end - 1]) and any(part.isdigit() for part in parts[:end]):
            return ".".join(parts[:end])
    return None


def attention_outputs(linears: dict[str, Features]) -> dict[str, str]:
    """Attention module → its output projection."""
    outputs: dict[str, str] = {}
    for name in linears:
        group = attention_of(name)
        if group is not None and not _ATTENTION_INPUT.search(name.rpartition(".")[2]):
            outputs[group] = name
    return outputs


def feed_forward_outputs(
    linears: dict[str, Features], attentions: dict[str, str]
) -> dict[str, str]:
    """Numbered layer → the output projection of its feed-forward."""
    widths = {
        layer: linears[output][1]
        for group, output in attentions.items()
        for layer in numbered(group)
    }
    outputs: dict[str, str] = {}
    for name, (inputs, width) in linears.items():
        layer = next((layer for layer in numbered(name) if layer in widths), None)
        if layer is None or attention_of(name) is not None or EXPERT.search(name):
            continue
        if width == widths[layer] and inputs >= width:
            outputs[layer] = name
    return outputs


def describe(model: nn.Module) -> str:
    """The class of a model and its linear layers, numbers left out, for a message."""
    patterns = list(dict.fromkeys(_pattern(name) for name in linear_layers(model)))
    shown = patterns[:40] + (["…"] if len(patterns) > 40 else [])
    return f"`{type(model).__name__}`, whose linear layers are {shown}"


def _pattern(name: str) -> str:
    return re.sub(r"\b\d+\b", "*", name)


def _missing(what: str, model: nn.Module) -> UnsupportedModelError:
    return UnsupportedModelError(
        "A bottleneck adapter must find the output projections of attention and feed-forward to"
        f" stand behind. Found no {what} in {describe(model)}. Write which of them to use, by the"
        ' ends of their names: `BottleneckConfig(target_modules=["attention.output.dense",'
        ' "output.dense"])`.'
    )

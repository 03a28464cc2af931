"""Where module copies go: the attention, the feed-forward and the norms of a model, or modules that are named."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from torch import nn

from hf_meta_adapters.anatomy.projections import (
    EXPERT,
    attention_of,
    attention_outputs,
    feed_forward_outputs,
    linear_layers,
    numbered,
    own_modules,
)
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

KINDS = ("layer_norm", "feed_forward", "attention")
_SHOWN = 12


def module_places(model: nn.Module, modules: str | Sequence[str]) -> list[str]:
    """The modules of one kind in the body of a model, or those that names or regular expressions match.

    - `"attention"`: the innermost modules of numbered layers whose name holds `attn` or
      `attention`. What lies inside comes along: in BERT the norm behind, in T5 the table of
      relative positions.
    - `"feed_forward"`: in each numbered layer the module that holds all linear layers outside of
      attention (`mlp`), or the several that do (`fc1` and `fc2`). Experts of a mixture are not
      feed-forwards.
    - `"layer_norm"`: every module without children that is a norm by its class, outside of heads.

    Args:
        model: The model.
        modules: A kind, or names, ends of names and regular expressions of whole names.

    Returns:
        Names of modules, none inside another.

    Raises:
        ConfigurationError: If a regular expression is none.
        UnsupportedModelError: If nothing is found, or what cannot be copied.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> module_places(BertModel(BertConfig(**sizes)), "feed_forward")
        ['encoder.layer.0.intermediate', 'encoder.layer.0.output']
    """
    if isinstance(modules, str):
        finders = {"attention": _attentions, "feed_forward": _feed_forwards, "layer_norm": _norms}
        return _check(model, finders[modules](model), f'"{modules}"')
    names = [name for name, _ in own_modules(model) if name]
    found: set[str] = set()
    for pattern in modules:
        try:
            matched = {name for name in names if name == pattern or name.endswith(f".{pattern}")}
            matched |= {name for name in names if re.fullmatch(pattern, name)}
        except re.error as error:
            raise ConfigurationError(
                f"`modules` must hold names of modules or regular expressions. Found {pattern!r}:"
                f" {error}. Write for "
                r'example ["LayerNorm"] or [r"encoder\.layer\.\d+\.output"].'
            ) from error
        found.update(_check(model, matched, repr(pattern)))
    outermost = [
        name
        for name in names
        if name in found and not any(name.startswith(f"{one}.") for one in found)
    ]
    return _check(model, outermost, repr(list(modules)))


def places_pattern(model: nn.Module, places: Sequence[str]) -> str:
    r"""A regular expression of whole names that matches these modules, and in a model with another head the same ones.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> places_pattern(BertModel(BertConfig(**sizes)), ["encoder.layer.0.intermediate"])
        '(?:bert\\.)?(?:encoder\\.layer\\.\\d+\\.intermediate)'
    """
    start = f"{getattr(model, 'base_model_prefix', '')}."
    exact = [re.escape(name.removeprefix(start)) for name in places]
    folded = list(dict.fromkeys(re.sub(r"\b\d+\b", r"\\d+", name) for name in exact))
    before = f"(?:{re.escape(start)})?" if start != "." else ""
    names = [name for name, _ in own_modules(model) if name]
    for choice in (folded, exact):
        pattern = f"{before}(?:{'|'.join(choice)})"
        if {name for name in names if re.fullmatch(pattern, name)} == set(places):
            return pattern
    return "|".join(re.escape(name) for name in places)


def _attentions(model: nn.Module) -> list[str]:
    return list(attention_outputs(linear_layers(model)))


def _feed_forwards(model: nn.Module) -> list[str]:
    linears = linear_layers(model)
    attentions = attention_outputs(linears)
    layers: dict[str, list[str]] = {
        layer: [] for layer in feed_forward_outputs(linears, attentions)
    }
    if any(not any(layer in layers for layer in numbered(group)) for group in attentions):
        # a layer without one: copies of the others would not be the feed-forwards of the model
        return []
    for name in linears:
        layer = next((part for part in numbered(name) if part in layers), None)
        if layer is not None and attention_of(name) is None and not EXPERT.search(name):
            layers[layer].append(name)
    return [
        place for layer, inside in layers.items() for place in _around(layer, inside, attentions)
    ]


def _around(layer: str, inside: Sequence[str], attentions: Iterable[str]) -> list[str]:
    """The one module within a layer that holds some linear layers and no attention, else the parts of the layer."""
    parents = [name.rpartition(".")[0].replace(".", "/") for name in inside]
    common = posixpath.commonpath(parents).replace("/", ".")
    depth = layer.count(".") + 2
    wanted = [common] if common != layer else [".".join(name.split(".")[:depth]) for name in inside]
    if any(group.startswith(f"{place}.") for group in attentions for place in wanted):
        return list(inside)
    return list(dict.fromkeys(wanted))


def _norms(model: nn.Module) -> list[str]:
    prefix = getattr(model, "base_model_prefix", "")
    start = f"{prefix}." if prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""
    return [
        name
        for name, part in own_modules(model)
        if name.startswith(start)
        and "norm" in type(part).__name__.lower()
        and not list(part.children())
    ]


def _check(model: nn.Module, names: Iterable[str], wanted: str) -> list[str]:
    """Those that have parameters; refuse where there are none, or such as are never called or cannot be trained."""
    found = [name for name in names if any(True for _ in model.get_submodule(name).parameters())]
    rule = (
        "Modules to be copied must be called in the forward pass, hold parameters of a floating"
        " type, and none of θ."
    )
    parts = {
        part.split(".")[-1]
        for part, _ in own_modules(model)
        if part and not part.split(".")[-1].isdigit()
    }
    example = (
        f"Write names of other modules of `{type(model).__name__}`, such as"
        f" {sorted(parts)[:_SHOWN]}."
    )
    if not found:
        raise UnsupportedModelError(f"{rule} Found none for {wanted}. {example}")
    for name in found:
        module = model.get_submodule(name)
        wrong = None
        if type(module).forward is nn.Module.forward:
            wrong = "which is a list of modules"
        elif any(hasattr(part, "base_layer") for part in module.modules()):
            wrong = "which holds another adapter"
        elif not all(parameter.is_floating_point() for parameter in module.parameters()):
            wrong = "which is quantised"
        if wrong:
            raise UnsupportedModelError(f"{rule} Found for {wanted} {name!r}, {wrong}. {example}")
    return found

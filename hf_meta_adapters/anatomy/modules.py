"""Modules that can be copied: attention, feed-forward or norms of a model, or modules by name."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from torch import nn

from hf_meta_adapters.anatomy._attributes import attribute
from hf_meta_adapters.anatomy.linear_layers import visible_modules
from hf_meta_adapters.anatomy.projections import (
    attention_outputs,
    attentions_without_feed_forward,
    feed_forward_layer,
    feed_forward_outputs,
    text_layers,
)
from hf_meta_adapters.anatomy.towers import text_modules
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

__all__ = ["MODULE_KINDS", "find_modules", "pattern_of_modules"]

MODULE_KINDS = ("layer_norm", "feed_forward", "attention")
"""The kinds of modules that [`find_modules`] finds by structure."""

_MOST_SHOWN = 12


def find_modules(model: nn.Module, modules: str | Sequence[str]) -> list[str]:
    """Return the modules of one kind in the body of a model, or those that match names.

    - `"attention"`: the innermost modules of numbered layers whose name contains `attn` or
      `attention`, with all that they hold: in BERT the norm behind, in T5 the table of relative
      positions.
    - `"feed_forward"`: in each numbered layer the module that holds all linear layers outside
      attention (`mlp`), or the modules that do so together (`fc1` and `fc2`). Experts of a mixture
      are not feed-forwards.
    - `"layer_norm"`: every module without children whose class is a norm, outside heads.

    A kind is looked for in the text model only, where a model has towers for images or sounds.

    Args:
        model: The model.
        modules: A kind; or names, ends of names, and regular expressions that match whole names.

    Returns:
        Names of modules, none inside another.

    Raises:
        ConfigurationError: If a regular expression is invalid.
        UnsupportedModelError: If no module is found, or one that cannot be copied.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> config = BertConfig(**sizes, intermediate_size=16, vocab_size=9)
        >>> find_modules(BertModel(config), "feed_forward")
        ['encoder.layer.0.intermediate', 'encoder.layer.0.output']
    """
    if isinstance(modules, str):
        finders = {"attention": _attentions, "feed_forward": _feed_forwards, "layer_norm": _norms}
        return _copyable(model, finders[modules](model), f'"{modules}"')

    names = [name for name, _ in visible_modules(model) if name]
    matched: set[str] = set()
    for pattern in modules:
        matched.update(_copyable(model, _matches(pattern, names), repr(pattern)))

    # A copy of a module holds copies of everything inside it.
    insides = tuple(f"{name}." for name in matched)
    outermost = [name for name in names if name in matched and not name.startswith(insides)]
    return _copyable(model, outermost, repr(list(modules)))


def pattern_of_modules(model: nn.Module, names: Sequence[str]) -> str:
    r"""Return a regular expression that matches the names of these modules and no others.

    It matches them in a model with the same body and another head, too.

    Args:
        model: The model.
        names: Names of modules in it.

    Returns:
        A regular expression for whole names.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> config = BertConfig(**sizes, intermediate_size=16, vocab_size=9)
        >>> pattern_of_modules(BertModel(config), ["encoder.layer.0.intermediate"])
        '(?:bert\\.)?(?:encoder\\.layer\\.\\d+\\.intermediate)'
    """
    prefix = attribute(model, "base_model_prefix", str) or ""
    optional_prefix = ""
    if prefix:
        optional_prefix = f"(?:{re.escape(f'{prefix}.')})?"

    exact = [re.escape(name.removeprefix(f"{prefix}.")) for name in names]
    any_number = list(dict.fromkeys(re.sub(r"\b\d+\b", r"\\d+", name) for name in exact))

    # The short pattern first, which holds for any number of layers. It says too much where only
    # some of the layers are meant.
    present = [name for name, _ in visible_modules(model) if name]
    for alternatives in (any_number, exact):
        pattern = f"{optional_prefix}(?:{'|'.join(alternatives)})"
        if {name for name in present if re.fullmatch(pattern, name)} == set(names):
            return pattern

    return "|".join(re.escape(name) for name in names)


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that equal a pattern, end with it, or match it as a regular expression."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(
            "`modules` must contain names of modules or regular expressions. Found"
            f" {pattern!r}: {error}. Use for example"
            r' ["LayerNorm"] or [r"encoder\.layer\.\d+\.output"].'
        ) from error

    return [
        name
        for name in names
        if name == pattern or name.endswith(f".{pattern}") or expression.fullmatch(name)
    ]


def _attentions(model: nn.Module) -> list[str]:
    return list(attention_outputs(text_layers(model)))


def _feed_forwards(model: nn.Module) -> list[str]:
    linears = text_layers(model)
    attentions = attention_outputs(linears)
    forwards = feed_forward_outputs(linears, attentions)
    if attentions_without_feed_forward(attentions, forwards):
        # Some layer has no feed-forward that we recognize: copies in the other layers would not be
        # the feed-forwards of the model.
        return []

    members: dict[str, list[str]] = {layer: [] for layer in forwards}
    for name in linears:
        layer = feed_forward_layer(name, members)
        if layer is not None:
            members[layer].append(name)

    places: list[str] = []
    for layer, inside in members.items():
        places.extend(_around(layer, inside, attentions))

    return places


def _around(layer: str, linears: Sequence[str], attentions: Iterable[str]) -> list[str]:
    """Return the one module in a layer that holds some linear layers, or else the layer's parts."""
    parents = [name.rpartition(".")[0].replace(".", "/") for name in linears]
    common = posixpath.commonpath(parents).replace("/", ".")

    places = [common]
    if common == layer:
        depth = layer.count(".") + 2
        places = [".".join(name.split(".")[:depth]) for name in linears]

    # Where such a module holds attention as well, only the linear layers are the feed-forward.
    insides = tuple(f"{place}." for place in places)
    # Nor is there such a module where each linear layer lies in a list of its own.
    if not common or any(attention.startswith(insides) for attention in attentions):
        return list(linears)

    return list(dict.fromkeys(places))


def _norms(model: nn.Module) -> list[str]:
    # Heads have norms, too (BERT's `cls`): only those of the body count, where a model has one.
    prefix = attribute(model, "base_model_prefix", str)
    body = ""
    if prefix and attribute(model, prefix, nn.Module) is not None:
        body = f"{prefix}."

    names = []
    for name, module in visible_modules(model):
        is_norm = "norm" in type(module).__name__.lower() and not list(module.children())
        if is_norm and name.startswith(body):
            names.append(name)

    return text_modules(model, names)


def _copyable(model: nn.Module, names: Iterable[str], request: str) -> list[str]:
    """Return the modules that have parameters, or refuse where there are none to copy."""
    with_parameters = [
        name for name in names if next(model.get_submodule(name).parameters(), None) is not None
    ]
    rule = (
        "Modules to be copied must be called in the forward pass, and hold parameters of a"
        " floating-point type and no other adapter."
    )
    others = {name.rpartition(".")[2] for name, _ in visible_modules(model)}
    shown = sorted(name for name in others if name and not name.isdigit())[:_MOST_SHOWN]
    remedy = f"Use the names of other modules of `{type(model).__name__}`, such as {shown}."

    if not with_parameters:
        raise UnsupportedModelError(f"{rule} Found none for {request}. {remedy}")

    for name in with_parameters:
        obstacle = _obstacle(model.get_submodule(name))
        if obstacle is not None:
            raise UnsupportedModelError(
                f"{rule} Found {name!r} for {request}, {obstacle}. {remedy}"
            )

    return with_parameters


def _obstacle(module: nn.Module) -> str | None:
    """Return why a module cannot be copied, if so."""
    # A container, such as the `ModuleList` of the layers, inherits the `forward` that raises.
    if type(module).forward is nn.Module.forward:
        return "which is a list of modules"

    inner = (attribute(part, "base_layer", nn.Module) for part in module.modules())
    if any(wrapped is not None for wrapped in inner):
        return "which holds another adapter"

    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        return "which is quantized"

    return None

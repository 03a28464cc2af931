"""The linear layers of a model, whichever library they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from torch import nn

from hf_meta_adapters.anatomy._attributes import attribute

__all__ = [
    "Features",
    "describe_linear_layers",
    "features_of",
    "is_conv1d",
    "linear_layers",
    "name_pattern",
    "visible_modules",
]

Features: TypeAlias = tuple[int, int]
"""The (in, out) features of a linear layer."""

_MOST_SHOWN = 40


def visible_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with its name, except those inside an adapted, copied or fused module.

    Args:
        model: The model.

    Yields:
        Name and module, in the order of `named_modules()`.
    """
    closed: tuple[str, ...] = ()

    for name, module in model.named_modules():
        if name.startswith(closed):
            continue

        yield name, module
        if _is_closed(module):
            closed += (f"{name}.",)


def linear_layers(model: nn.Module) -> dict[str, Features]:
    """Return the linear layers of a model, quantized or not, adapted or not.

    Args:
        model: The model.

    Returns:
        Name → (in, out) features, in the order of registration.
    """
    layers: dict[str, Features] = {}

    for name, module in visible_modules(model):
        features = features_of(module)
        if features is not None:
            layers[name] = features

    return layers


def features_of(module: nn.Module) -> Features | None:
    """Return the (in, out) features of a linear layer; `None` for any other module.

    Args:
        module: A module of torch, of GPT-2, or of a quantization library, with or without adapters.

    Returns:
        The features.

    Example:
        >>> features_of(nn.Linear(2, 3)), features_of(nn.ReLU())
        ((2, 3), None)
    """
    wrapped = attribute(module, "base_layer", nn.Module)
    while wrapped is not None:
        module, wrapped = wrapped, attribute(wrapped, "base_layer", nn.Module)

    names = [("in_features", "out_features"), ("infeatures", "outfeatures")]
    if is_conv1d(module):
        names = [("nx", "nf")]

    # Not the shape of the weight: quantization libraries pack it into another one.
    for input_name, output_name in names:
        inputs, outputs = attribute(module, input_name, int), attribute(module, output_name, int)
        if inputs is not None and outputs is not None:
            return inputs, outputs

    return None


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is the `Conv1D` of GPT-2: a linear layer whose weight is (inputs, outputs).

    Recognized by the name of its class: transformers defines it, and this package must not need
    transformers to know it.
    """
    return any(base.__name__ == "Conv1D" for base in type(module).__mro__)


def describe_linear_layers(model: nn.Module) -> str:
    """Return the class of a model and the patterns of its linear layers' names, for a message."""
    patterns = list(dict.fromkeys(name_pattern(name) for name in linear_layers(model)))
    if len(patterns) > _MOST_SHOWN:
        patterns[_MOST_SHOWN:] = ["…"]

    return f"`{type(model).__name__}`, whose linear layers are {patterns}"


def name_pattern(name: str) -> str:
    """Return a name with `*` in place of its numbers.

    Example:
        >>> name_pattern("encoder.layer.3.output.dense")
        'encoder.layer.*.output.dense'
    """
    return re.sub(r"\b\d+\b", "*", name)


def _is_closed(module: nn.Module) -> bool:
    """Whether nothing may be attached to the modules inside this one."""
    if isinstance(module, nn.MultiheadAttention):
        # It reads the weight of its projection and never calls it: an adapter behind the
        # projection would never run.
        return True

    inner = (attribute(module, name, nn.Module) for name in ("base_layer", "original_module"))
    return any(wrapped is not None for wrapped in inner)

"""Which linear layers of a model get bottleneck adapters."""

from __future__ import annotations

import re

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from hf_meta_adapters.anatomy.linear_layers import (
    describe_linear_layers,
    linear_layers,
    visible_modules,
)
from hf_meta_adapters.anatomy.projections import layer_number, output_projections
from hf_meta_adapters.backends.bottleneck._config import BottleneckConfig
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

_SHOWN = 5


def find_targets(model: nn.Module, config: BottleneckConfig) -> list[str] | str:
    """The output projections of a model, as `target_modules` of a configuration.

    Args:
        model: The model.
        config: Says after which sublayers, and in which layers.

    Returns:
        Ends of names; or a regular expression of whole names if such ends match other linear layers
        as well.

    Raises:
        ConfigurationError: If the model has no layer of a number.
        UnsupportedModelError: If the projections cannot be found.
    """
    names = output_projections(
        model,
        attention=config.after_attention,
        feed_forward=config.after_feed_forward,
        layers=config.layer_numbers,
    )
    _check_layer_numbers(model, config, names)

    # "encoder.layer.3.output.dense" → "output.dense"
    ends = sorted({re.split(r"(?:^|\.)\d+\.", name)[-1] for name in names})
    dotted_ends = tuple(f".{end}" for end in ends)
    matched = [name for name in linear_layers(model) if name in ends or name.endswith(dotted_ends)]

    # ends hold for a model of another depth or with another head, so they are the first choice
    if matched == names:
        return ends

    return "|".join(re.escape(name) for name in names)


def check_targets(model: nn.Module, config: BottleneckConfig) -> None:
    """Refuse `target_modules` that match nothing, or more than linear layers.

    Raises:
        UnsupportedModelError: Before the model is changed.
    """
    linear = linear_layers(model)

    # with the function by which PEFT will match them
    matched = [
        name
        for name, _ in visible_modules(model)
        if name and check_target_module_exists(config, name)
    ]
    unfit = [name for name in matched if name not in linear]
    if not matched:
        unfit = ["nothing"]

    if unfit:
        raise UnsupportedModelError(
            "`target_modules` must match linear layers only. Found that"
            f" {config.target_modules!r} matches {', '.join(unfit[:_SHOWN])} in"
            f" {describe_linear_layers(model)}. Use ends of such names, or leave out"
            " `target_modules`."
        )


def narrowest_target(model: nn.Module, config: BottleneckConfig) -> int:
    """The width of the layers that get adapters, the least if they differ.

    Behind output projections it is the width of the model, whatever its configuration calls it.

    Args:
        model: The model.
        config: The configuration, with `target_modules`.
    """
    return min(
        outputs
        for name, (_, outputs) in linear_layers(model).items()
        if check_target_module_exists(config, name)
    )


def _check_layer_numbers(model: nn.Module, config: BottleneckConfig, names: list[str]) -> None:
    """Refuse numbers of layers that have none of the output projections that were found."""
    adapted = {layer_number(name) for name in names}
    absent = sorted(set(config.layer_numbers or ()) - adapted)
    if absent:
        present = sorted({layer_number(name) for name in output_projections(model)})
        raise ConfigurationError(
            f"`layers_to_transform` must hold numbers of layers that can have adapters: {present}."
            f" Found {absent}. Leave them out."
        )

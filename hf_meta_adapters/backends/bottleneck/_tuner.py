"""The bottleneck adapter as a PEFT method."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import nn
from transformers.activations import ACT2FN

from hf_meta_adapters.anatomy.linear_layers import (
    describe_linear_layers,
    linear_layers,
    visible_modules,
)
from hf_meta_adapters.anatomy.projections import layer_number, output_projections
from hf_meta_adapters.backends.bottleneck._config import MODEL_ACTIVATION, BottleneckConfig
from hf_meta_adapters.backends.bottleneck._layer import BASE, BottleneckLayer
from hf_meta_adapters.backends.rows import naming_rows
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

_ACTIVATION_SETTINGS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "dense_act_fn",
    "activation",
)


class BottleneckModel(BaseTuner):
    """Puts the adapters of `BottleneckConfig` into a model, in place. Made by `peft.get_peft_model`."""

    # PEFT warns of an adapter whose name is a part of the prefix: no language code is a part of
    # this one
    prefix = "bk_"
    tuner_layer_cls = BottleneckLayer

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Create the adapter whose configuration is stored under its name."""
        _check_name(adapter_name, model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            peft_config.target_modules = _find_targets(self.model, peft_config)
        else:
            _check_targets(self.model, peft_config)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target)
        layer.add_adapter(
            adapter_name,
            size=peft_config.bottleneck_size,
            activation=_activation(self.model, peft_config.non_linearity),
            dropout=peft_config.dropout,
            identity=peft_config.init_weights,
        )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand the `adapter_names` of a call of the model to every layer; PEFT enters this around the call."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        layers = [layer for layer in self.modules() if isinstance(layer, BottleneckLayer)]
        _check_routing(self, names, layers)
        with naming_rows(layers, names):
            yield


def _find_targets(model: nn.Module, config: BottleneckConfig) -> list[str] | str:
    """The ends of names that say which layers to adapt; a regular expression of whole names where ends say too much."""
    numbers = config.layer_numbers
    names = output_projections(
        model,
        attention=config.after_attention,
        feed_forward=config.after_feed_forward,
        layers=numbers,
    )
    if absent := sorted(set(numbers or ()) - {layer_number(name) for name in names}):
        present = sorted({layer_number(name) for name in output_projections(model)})
        raise ConfigurationError(
            f"`layers_to_transform` must hold numbers of layers that can have adapters: {present}."
            f" Found {absent}."
        )
    ends = sorted({re.split(r"(?:^|\.)\d+\.", name)[-1] for name in names})
    reached = [
        name
        for name in linear_layers(model)
        if name in ends or name.endswith(tuple(f".{end}" for end in ends))
    ]
    return ends if reached == names else "|".join(re.escape(name) for name in names)


def _check_targets(model: nn.Module, config: BottleneckConfig) -> None:
    """Refuse what is not linear, and a choice that matches nothing, before the model is changed."""
    linears = linear_layers(model)
    matched = [
        name
        for name, _ in visible_modules(model)
        if name and check_target_module_exists(config, name)
    ]
    if wrong := [name for name in matched if name not in linears] or (
        [] if matched else ["nothing"]
    ):
        raise UnsupportedModelError(
            f"`target_modules` must match linear layers only. Found that {config.target_modules!r}"
            f" matches {', '.join(wrong[:5])} in {describe_linear_layers(model)}. Write ends of such names, or"
            " leave `target_modules` out."
        )


def _check_name(name: str, model: nn.Module) -> None:
    """Refuse a name that PEFT would mistake for something else, when it saves an adapter or when it creates it."""
    parts = {part for module, _ in visible_modules(model) for part in module.split(".")}
    if name in parts or hasattr(nn.ModuleDict, name):
        owner = (
            f"a part of a module's name in `{type(model).__name__}`"
            if name in parts
            else "an attribute of ModuleDict"
        )
        raise ConfigurationError(
            "An adapter must not be named like a part of the model or an attribute of"
            " `torch.nn.ModuleDict`: PEFT "
            f"cannot tell them apart. Found {name!r}, which is {owner}. Write for example"
            f' "language_{name}".'
        )


def _check_routing(
    tuner: BottleneckModel, names: Sequence[str], layers: list[BottleneckLayer]
) -> None:
    known = {name for layer in layers for name in layer.bk_down}
    if isinstance(names, str) or (unknown := sorted(set(names) - known - {BASE})):
        found = names if isinstance(names, str) else unknown
        raise ConfigurationError(
            f"`adapter_names` must be a list of adapters that there are, {sorted(known)}, or"
            f' "{BASE}". Found {found!r}.'
        )
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in tuner.modules())
    if recomputes and tuner.training and torch.is_grad_enabled():
        raise ConfigurationError(
            "`adapter_names` must come without gradient checkpointing in training, whose"
            " recomputation would not know them. Found both. Switch the checkpointing off, or set"
            " one adapter for the whole batch."
        )


def _activation(model: nn.Module, name: str) -> str:
    """The name of an activation; that of the model is what its config, or the config of its text part, says."""
    if name != MODEL_ACTIVATION:
        return name
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        for setting in _ACTIVATION_SETTINGS:
            value = getattr(part, setting, None)
            if isinstance(value, str) and value in ACT2FN:
                return value
    return "gelu"

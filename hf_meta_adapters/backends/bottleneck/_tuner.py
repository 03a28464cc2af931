"""The bottleneck adapter as a PEFT method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from hf_meta_adapters.anatomy.linear_layers import visible_modules
from hf_meta_adapters.backends.bottleneck._activation import activation_name
from hf_meta_adapters.backends.bottleneck._config import BottleneckConfig
from hf_meta_adapters.backends.bottleneck._layer import BASE, BottleneckLayer
from hf_meta_adapters.backends.bottleneck._targets import (
    check_targets,
    find_targets,
    narrowest_target,
)
from hf_meta_adapters.backends.recomputation import is_checkpointed
from hf_meta_adapters.backends.rows import naming_rows
from hf_meta_adapters.errors import ConfigurationError


class BottleneckModel(BaseTuner):
    """Puts the adapters of `BottleneckConfig` into a model, in place, for `peft.get_peft_model`."""

    # PEFT warns of an adapter whose name is a part of the prefix; no language code is one of this
    prefix = "bk_"
    tuner_layer_cls = BottleneckLayer

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: object, **kwargs: object
    ) -> None:
        """Create the adapter whose configuration is stored under its name."""
        _check_name(adapter_name, model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict[str, object]
    ) -> BottleneckConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = find_targets(self.model, peft_config)
        else:
            check_targets(self.model, peft_config)

        peft_config.resolve_width(narrowest_target(self.model, peft_config))
        return peft_config

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        size = peft_config.bottleneck_size
        assert size is not None  # since the configuration was prepared

        layer = target
        if not isinstance(layer, BottleneckLayer):
            layer = BottleneckLayer(target)

        layer.add_adapter(
            adapter_name,
            size=size,
            activation=activation_name(self.model, peft_config.non_linearity),
            dropout=peft_config.dropout,
            identity=peft_config.init_weights,
        )
        # a layer that an earlier adapter put there is kept
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

        # new parameters require gradients, but only those of active adapters should
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *args: object, adapter_names: Sequence[str] | None = None, **kwargs: object
    ) -> Iterator[None]:
        """Pass `adapter_names` on to every layer; PEFT enters this around a call of the model."""
        if adapter_names is None:
            yield
            return

        layers = [layer for layer in self.modules() if isinstance(layer, BottleneckLayer)]
        _check_routing(self, adapter_names, layers)
        with naming_rows(layers, adapter_names):
            yield


def _check_name(name: str, model: nn.Module) -> None:
    """Refuse a name that PEFT mistakes for something else when it creates or saves an adapter."""
    # PEFT tells adapters apart by the components of the names of tensors
    components = {part for module, _ in visible_modules(model) for part in module.split(".")}
    if name in components:
        owner = f"a part of a module's name in `{type(model).__name__}`"
    elif hasattr(nn.ModuleDict, name):
        owner = "an attribute of ModuleDict"
    else:
        return

    raise ConfigurationError(
        "An adapter must not be named like a part of the model or an attribute of"
        " `torch.nn.ModuleDict`, because PEFT cannot tell them apart. Found"
        f' {name!r}, which is {owner}. Call it for example "language_{name}".'
    )


def _check_routing(
    tuner: BottleneckModel, names: Sequence[str], layers: Sequence[BottleneckLayer]
) -> None:
    """Refuse names of adapters that do not exist, and a backward pass that would forget them."""
    known = {name for layer in layers for name in layer.bk_down}

    # a string is a sequence of strings, which a type checker does not find
    refused: object = sorted(set(names) - known - {BASE})
    if isinstance(names, str):
        refused = names

    if refused or isinstance(names, str):
        raise ConfigurationError(
            f"`adapter_names` must be a list whose entries are in {sorted(known)} or"
            f' "{BASE}". Found {refused!r}. Name adapters of the model.'
        )

    if tuner.training and torch.is_grad_enabled() and is_checkpointed(tuner):
        raise ConfigurationError(
            "`adapter_names` must come without gradient checkpointing in training, because the"
            " recomputation does not know them. Found both. Switch checkpointing off, or activate"
            " one adapter for the whole batch."
        )

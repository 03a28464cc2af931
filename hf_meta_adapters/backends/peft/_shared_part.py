"""θ as an adapter of PEFT over a frozen base, beside which the adapters of the languages are put into the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from hf_meta_adapters.backends.abilities import SharedPart
from hf_meta_adapters.backends.peft._files import (
    check_initialisation,
    check_same_config,
    write_adapter,
)
from hf_meta_adapters.backends.weights_file import read_weights
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

ADAPTER = "shared_adapter"
"""The name of θ inside PEFT; no language has it there."""


class PeftSharedPart(SharedPart):
    """One adapter of PEFT that all languages share, put into a model in place.

    It is created before the adapters of the languages, so that its tensors have the names that PEFT
    gives them in a model without languages, and a `PeftModel` can read them.

    Args:
        base: The transformers model, without adapters.
        config: What θ is.

    Raises:
        ConfigurationError: If θ cannot be that.
        UnsupportedModelError: If it finds nothing in the model to attach to.
    """

    def __init__(self, base: nn.Module, config: PeftConfig) -> None:
        _check(config)
        self.base = base
        self._trained = [parameter for parameter in base.parameters() if parameter.requires_grad]
        config = copy.deepcopy(config)
        config.inference_mode = False
        known = set(base.modules())
        try:
            with without_noise():
                self.model: Any = get_peft_model(base, config, adapter_name=ADAPTER)
        except ValueError as error:
            raise UnsupportedModelError(
                "The shared adapter must find modules of the model to attach to. Found, for "
                f"`shared={type(config).__name__}(...)` in `{type(base).__name__}`: {error} Write "
                "`target_modules=[...]` with some of the model's own modules."
            ) from error
        del (
            self._base.peft_config
        )  # where the adapters of the languages would look for others of their own kind
        for part in set(base.modules()) - known:
            part.training = base.training
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self.layers: list[Any] = [part for part in base.modules() if isinstance(part, kinds)]
        self.tensors = get_peft_model_state_dict(
            self.model, self.model.state_dict(keep_vars=True), ADAPTER, save_embedding_layers=False
        )

    def save(self, directory: Path, base_name: str) -> None:
        """Write a folder that `PeftModel.from_pretrained` reads; its configuration names the base."""
        write_adapter(directory, self.model.peft_config[ADAPTER], self.tensors, base_name or None)

    def load(self, directory: Path, body: str | None = None) -> None:
        """Read an adapter that PEFT or `save` wrote, after comparing configuration, names and shapes."""
        found = read_weights(directory, self.tensors, body)
        check_same_config(self.model.peft_config[ADAPTER], directory, body)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(found[name])

    def remove(self) -> None:
        """Take the layers out of the base, and train of it what was trained before."""
        self._base.peft_config = {}  # which PEFT deletes
        self.model.unload()
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def merge(self) -> None:
        """Add θ to the weights of the base; the layers stay in the model."""
        for layer in self.layers:
            if isinstance(layer, BaseTunerLayer):
                layer.merge(adapter_names=[ADAPTER])

    def merged(self) -> nn.Module:
        """A copy of the base model with θ in its weights and no adapter in it."""
        twin = copy.deepcopy(self)
        return twin.model.merge_and_unload(adapter_names=[ADAPTER])

    @property
    def _base(self) -> Any:
        return self.base


@contextmanager
def without_noise() -> Iterator[None]:
    """Silence warnings that PEFT causes by itself and that a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="You are trying to modify a model with PEFT for a second time"
        )
        warnings.filterwarnings("ignore", message="Already following adapters were merged")
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        yield


def _check(config: object) -> None:
    rule = '`shared` must be "all", "none", a regular expression or a PeftConfig'
    if not isinstance(config, PeftConfig):
        raise ConfigurationError(
            f"{rule}. Found {config!r} of type `{type(config).__name__}`. Write for example "
            '`shared=LoraConfig(target_modules="all-linear")`.'
        )
    check_initialisation(config)
    if config.is_prompt_learning:
        raise ConfigurationError(
            f"{rule} of a method that puts layers into the model. Found `{type(config).__name__}`,"
            " whose prompt lies outside of it. Write for example"
            ' `shared=LoraConfig(target_modules="all-linear")`.'
        )
    if (bias := getattr(config, "bias", "none")) != "none":
        raise ConfigurationError(
            f"{rule} under which the base stays frozen. Found `bias={bias!r}`, which trains biases"
            ' of the base. Write `bias="none"`.'
        )

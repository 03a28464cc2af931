"""θ as an adapter of PEFT over a frozen base, on top of which languages get theirs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.abilities import ExportsLora, SharedPart
from hf_meta_adapters.backends.peft._files import (
    LONGEST,
    check_initialisation,
    check_same_config,
    write_adapter,
)
from hf_meta_adapters.backends.peft._lora_export import Source, export_stacked
from hf_meta_adapters.backends.peft._merging import prepare_merging, unwrap
from hf_meta_adapters.backends.peft._messages import without_noise
from hf_meta_adapters.backends.peft._patterns import check_config_patterns
from hf_meta_adapters.backends.peft._supported import check_supported
from hf_meta_adapters.backends.peft._task import with_task
from hf_meta_adapters.backends.peft._theta_tokens import rows_of_tokens, take_over_tokens
from hf_meta_adapters.backends.weights_file import read_weights
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

ADAPTER = "shared_adapter"
"""The name of θ inside PEFT; no language has it there."""

_COPIES = {"modules_to_save", "original_module", "token_adapter"}
SWITCHED = (BaseTunerLayer, AuxiliaryTrainingWrapper)
"""The layers in which PEFT keeps adapters and switches between them."""


class PeftSharedPart(SharedPart, ExportsLora):
    """One adapter of PEFT that all languages share, put into a model in place.

    It is created before the adapters of the languages, so that its tensors have the names that PEFT
    gives them in a model without languages, and a `PeftModel` can read them.

    Args:
        base: The transformers model, without adapters.
        config: The configuration of the adapter.

    Raises:
        ConfigurationError: If θ cannot be an adapter of that configuration.
        UnsupportedModelError: If it finds nothing in the model to attach to.
    """

    def __init__(self, base: nn.Module, config: object) -> None:
        self.base = base
        self._trained = [parameter for parameter in base.parameters() if parameter.requires_grad]

        # PEFT fills in what it finds, and a configuration that was loaded is in inference mode
        settings = _checked(config, base)
        check_config_patterns(base, settings)
        settings.inference_mode = False
        known = set(base.modules())

        try:
            with without_noise():
                self.model: Any = get_peft_model(base, settings, adapter_name=ADAPTER)
        except ValueError as error:
            raise UnsupportedModelError(
                "The shared adapter must find modules of the model to attach to. Found, for"
                f" `shared={type(config).__name__}(...)` in `{type(base).__name__}`:"
                f" {str(error)[:LONGEST]} Set `target_modules=[...]` to some of the model's own"
                " modules."
            ) from error

        # the adapters of the languages would look there for others of their own kind
        del self._base.peft_config

        # new modules are in training mode, whatever the model is in
        for part in set(base.modules()) - known:
            part.training = base.training

        self.layers: list[Any] = [part for part in base.modules() if isinstance(part, SWITCHED)]
        take_over_tokens(self.layers)

        # `keep_vars`: the tensors themselves, into which `load` copies
        self.tensors = get_peft_model_state_dict(
            self.model, self.model.state_dict(keep_vars=True), ADAPTER, save_embedding_layers=False
        )

    def save(self, directory: Path, base_name: str) -> None:
        """Write a folder that `PeftModel.from_pretrained` reads, which names the base."""
        config = self.model.peft_config[ADAPTER]
        config = with_task(config, self.base, has_head=False)
        write_adapter(directory, config, self.tensors, base_name)

    def load(self, directory: Path, body: str | None = None) -> None:
        """Read what PEFT or `save` wrote, after a comparison of configuration, names and shapes."""
        weights = read_weights(directory, self.tensors, body)
        check_same_config(self.model.peft_config[ADAPTER], directory, body)

        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(weights[name])

    @property
    def source(self) -> Source:
        """θ, as a part of an exported LoRA."""
        return Source(ADAPTER, self.model.peft_config[ADAPTER], self.tensors)

    def export_lora(self, language: Language, directory: Path, base_name: str | None) -> None:
        """Write θ alone, for a model whose languages have nothing of their own."""
        export_stacked(self.base, [self.source], directory, base_name)

    def remove(self) -> None:
        """Take the layers out of the base, and train what it trained before."""
        self._base.peft_config = {}  # PEFT deletes it, and fails if it is absent
        self.model.unload()

        for parameter in self._trained:
            parameter.requires_grad_(True)

    def token_rows(self) -> dict[int, frozenset[int]]:
        """The rows of `trainable_token_indices`."""
        return rows_of_tokens(self.layers, ADAPTER)

    def merge(self) -> None:
        """Add θ to the weights of the base; layers in which languages have adapters stay."""
        for layer in self.layers:
            # the others, such as of `modules_to_save`, hold whole modules and nothing to add
            if isinstance(layer, BaseTunerLayer):
                layer.merge(adapter_names=[ADAPTER])

        # PEFT would look for a language in layers that have none
        unwrap(self.base, {id(layer) for layer in self.layers if is_alone(layer)})

    def merged(self) -> nn.Module:
        """Compute a copy of the base model with θ in its weights and no adapter in it."""
        twin = copy.deepcopy(self)
        prepare_merging(twin.base)

        with without_noise():
            model: nn.Module = twin.model.merge_and_unload(adapter_names=[ADAPTER])
        unwrap(model)
        return model

    @property
    def _base(self) -> Any:
        """The base, whose attributes of PEFT `nn.Module` does not declare."""
        return self.base


def is_alone(layer: Any) -> bool:
    """Whether a layer has θ and no adapter of a language."""
    return layer._get_available_adapters() == {ADAPTER}


def leave_copies_out(config: PeftConfig, model: nn.Module) -> None:
    """Resolve "all-linear" to layers of the base, without the copies that θ has of some.

    Args:
        config: The configuration of a language; changed in place.
        model: The base, with θ in it.
    """
    _maybe_include_all_linear_layers(config, model)

    targets = vars(config).get("target_modules")
    if isinstance(targets, set):
        config.target_modules = {name for name in targets if not _COPIES & set(name.split("."))}


def _checked(config: object, base: nn.Module) -> PeftConfig:
    """A copy of a configuration that θ can have."""
    rule = '`shared` must be "all", "none", a regular expression or a PeftConfig'
    if not isinstance(config, PeftConfig):
        raise ConfigurationError(
            f"{rule}. Found {config!r} of type `{type(config).__name__}`. Use for example"
            ' `shared=LoraConfig(target_modules="all-linear")`.'
        )

    check_initialisation(config)
    check_supported(config, base, is_theta=True)
    if config.is_prompt_learning:
        raise ConfigurationError(
            f"{rule} of a method that puts layers into the model. Found `{type(config).__name__}`,"
            " whose prompt lies outside of it. Use for example"
            ' `shared=LoraConfig(target_modules="all-linear")`.'
        )

    # not every method has the setting
    bias = vars(config).get("bias", "none")
    if bias != "none":
        raise ConfigurationError(
            f"{rule} that leaves the base frozen. Found `bias={bias!r}`, which trains biases of the"
            ' base. Set `bias="none"`.'
        )

    return copy.deepcopy(config)

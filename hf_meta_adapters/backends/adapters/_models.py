"""Which models the library `adapters` can adapt without changing them, checked before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import adapters
import torch
from adapters import AdapterConfig, PrefixTuningConfig, ReftConfig
from adapters.methods.lora import LoRALayer, LoRAMergedLinear
from torch import Tensor
from transformers import PreTrainedModel

from hf_meta_adapters.backends.adapters._configs import (
    configs_in,
    is_extended_lora,
    is_orthogonal,
    is_vera,
)
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

OTHERWISE = "Use `BottleneckConfig()`, which fits every architecture, or a PeftConfig."
_MASKS_BOTH_WAYS = {"gpt2", "llama", "mistral"}
_SHOWN = 4


def check_bare(model: object) -> None:
    """Refuse what is not a plain transformers model.

    Args:
        model: The base model.

    Raises:
        UnsupportedModelError: If it is of another class, or the library has changed it already.
    """
    model_class = type(model)
    is_flexible = model_class.__module__.startswith("adapters.models")  # with heads of the library
    if not isinstance(model, PreTrainedModel) or is_flexible:
        raise UnsupportedModelError(
            "The base model must be of a model class of transformers. Found"
            f" `{model_class.__name__}`. Load it with such a class, for example with"
            " `AutoModelForMaskedLM.from_pretrained(...)`."
        )

    # an attribute that `adapters.init` adds
    known = vars(model).get("adapters_config")
    if known is not None:
        raise UnsupportedModelError(
            "The base model must be as transformers loads it. Found one on which `adapters.init`"
            f" was called, with the adapters {list(known)}. Load it again without that call. To"
            " start from an adapter, save it with `save_adapter(..., use_safetensors=True)` and"
            " call `load_language(language, folder)`."
        )


def initialise(model: Any, config: AdapterConfig) -> None:
    """Call `adapters.init`, which replaces code of the model, and check that nothing else changes.

    Args:
        model: The base model.
        config: The configuration for which the new code must work.

    Raises:
        UnsupportedModelError: If the library does not know the architecture, or changes what the
            model computes.
        ConfigurationError: If the adapter would have no effect, or fail, in this model.
    """
    before = dict(model.named_parameters())

    try:
        adapters.init(model)
    except (AttributeError, ValueError) as error:
        raise UnsupportedModelError(
            "The library `adapters` must know the architecture. Found"
            f" `{type(model).__name__}`: {error} {OTHERWISE}"
        ) from error

    _check_same_parameters(model, before)

    # after `init`, because the code that the library puts in decides what works
    _check_prefix(model, config)
    _check_reft(model, config)
    _check_lora(model, config)


def check_added(model: torch.nn.Module, name: str, config: AdapterConfig) -> None:
    """Refuse matrices that VeRA would share between layers of different sizes.

    Args:
        model: The model.
        name: The name of an adapter in it.
        config: The adapter's configuration.

    Raises:
        ConfigurationError: If the sizes differ.
    """
    if not any(is_vera(each) for each in configs_in(config)):
        return

    # the first layer decides the shape of the matrices; another one fails in the forward pass only
    layers = [part for part in model.modules() if isinstance(part, LoRALayer)]
    sizes = {(layer.in_features, layer.out_features) for layer in layers if name in layer.loras}

    if len(sizes) > 1:
        raise ConfigurationError(
            "VeRA must be put into layers of one size, because they share its matrices. Found"
            f" {sorted(sizes)} in `{type(model).__name__}`. Change `attn_matrices`, or use"
            " `LoRAConfig()`."
        )


def _check_same_parameters(model: torch.nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a model whose parameters `adapters.init` removes, replaces or adds to."""
    after = dict(model.named_parameters())

    # "is not": a parameter of the same name may be another one, with fresh values
    changed = [name for name, tensor in before.items() if after.get(name) is not tensor]
    changed += [name for name in after if name not in before]

    if changed:
        raise UnsupportedModelError(
            "`adapters.init` must leave the parameters of a model as they are. Found that it"
            f" removes or adds {changed[:_SHOWN]}, {len(changed)} in all, in"
            f" `{type(model).__name__}`. Load the model again. {OTHERWISE}"
        )


def _check_prefix(model: Any, config: AdapterConfig) -> None:
    """Refuse prefixes that attention does not see.

    The library marks a prefix as 1. The boolean masks that these decoders make take that for
    "masked", except for "eager" attention, which adds its mask.
    """
    if not any(isinstance(each, PrefixTuningConfig) for each in configs_in(config)):
        return

    attention = model.config._attn_implementation
    if model.config.model_type in _MASKS_BOTH_WAYS and attention != "eager":
        raise ConfigurationError(
            f"Prefix tuning by the library `adapters` has an effect in `{type(model).__name__}`"
            f' only with the attention "eager". Found "{attention}". Use'
            ' `from_pretrained(..., attn_implementation="eager")`.'
        )


def _check_reft(model: Any, config: AdapterConfig) -> None:
    """Refuse ReFT in precisions in which the library's code fails."""
    is_half = model.dtype in (torch.float16, torch.bfloat16)
    if is_half and any(is_orthogonal(each) for each in configs_in(config)):
        raise ConfigurationError(
            "Orthogonal ReFT must be in float32 or float64, in which torch can make matrices"
            f" orthogonal. Found {model.dtype}. Load the model in float32 and train with"
            " `bf16=True`, or use `NoReftConfig()`."
        )

    for each in configs_in(config):
        if not isinstance(each, ReftConfig) or model.dtype == torch.float32:
            continue

        # the empty side of a text is float32, whatever the type of the model
        if 0 in (each.prefix_positions, each.suffix_positions):
            raise ConfigurationError(
                "ReFT must be at both ends of a text unless the model is in float32. Found"
                f" prefix_positions={each.prefix_positions} and"
                f" suffix_positions={each.suffix_positions} in {model.dtype}. Set for example"
                " `suffix_positions=3`, or load the model in float32 and train with `bf16=True`."
            )


def _check_lora(model: torch.nn.Module, config: AdapterConfig) -> None:
    """Refuse extensions of LoRA that the library's code for merged matrices does not know."""
    if not any(is_extended_lora(each) for each in configs_in(config)):
        return

    if any(isinstance(part, LoRAMergedLinear) for part in model.modules()):
        raise ConfigurationError(
            "LoRA must be plain where one matrix makes queries, keys and values. Found"
            f" `{type(config).__name__}` for `{type(model).__name__}`. Use `LoRAConfig()`."
        )

"""What the library `adapters` cannot do in a model with languages, said before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import adapters
import torch
from adapters import (
    BnConfig,
    DiReftConfig,
    LoRAConfig,
    MTLLoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ReftConfig,
)
from adapters.methods.lora import LoRALayer, LoRAMergedLinear
from transformers import PreTrainedModel

from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

OTHERWISE = "Write `BottleneckConfig()`, which fits every architecture, or a PeftConfig."
_MASKS_BOTH_WAYS = {"gpt2", "llama", "mistral"}


def check_config(config: Any) -> None:
    """Refuse a configuration that no model can have once for each language.

    Args:
        config: An `AdapterConfig`.

    Raises:
        ConfigurationError: If it is, or has in it, a prompt or DiReFT.
    """
    if any(isinstance(part, PromptTuningConfig) for part in _parts(config)):
        raise ConfigurationError(
            "The adapter of a language must leave the length of the text as it is, which the labels"
            " have, too. Found a `PromptTuningConfig`. Write for example `PrefixTuningConfig()`."
        )
    if any(isinstance(part, DiReftConfig) for part in _parts(config)):
        raise ConfigurationError(
            "The adapter of a language must be one that can be saved. Found a `DiReftConfig`, which"
            " the library `adapters` reads back as another method. Write for example"
            " `NoReftConfig()`."
        )


def check_bare(model: Any) -> None:
    """Refuse what is no plain transformers model.

    Args:
        model: The base model.

    Raises:
        UnsupportedModelError: If it is of another class, or the library has changed it already.
    """
    kind = type(model)
    if not isinstance(model, PreTrainedModel) or kind.__module__.startswith("adapters.models"):
        raise UnsupportedModelError(
            f"The base model must be of a model class of transformers. Found `{kind.__name__}`."
            " Load it by such a class, for example by `AutoModelForMaskedLM.from_pretrained(...)`."
        )
    if (known := getattr(model, "adapters_config", None)) is not None:
        raise UnsupportedModelError(
            "The base model must be as transformers has loaded it. Found one on which"
            f" `adapters.init` was called, with the adapters {list(known)}. Load it anew, without"
            " that call. To start from an adapter, save it by `save_adapter(...,"
            " use_safetensors=True)` and write `load_language(language, folder)`."
        )


def initialise(model: Any, config: Any) -> None:
    """`adapters.init`, which puts other code in the place of the model's, and must change nothing else.

    Args:
        model: The base model.
        config: An `AdapterConfig`, for which the other code must work.

    Raises:
        UnsupportedModelError: If the library does not know the architecture, or changes what the
            model computes.
        ConfigurationError: If the adapter would have no effect, or fail, in this model.
    """
    kind, before = type(model).__name__, dict(model.named_parameters())
    try:
        adapters.init(model)
    except (AttributeError, ValueError) as error:
        raise UnsupportedModelError(
            f"The library `adapters` must know the architecture. Found `{kind}`: {error}"
            f" {OTHERWISE}"
        ) from error
    after = dict(model.named_parameters())
    wrong = [name for name, tensor in before.items() if after.get(name) is not tensor]
    wrong += [name for name in after if name not in before]
    if wrong:
        raise UnsupportedModelError(
            "`adapters.init` must leave the parameters of a model as they are. Found that it takes"
            f" away or invents {wrong[:4]} and {len(wrong)} in all in `{kind}`. Load the model"
            f" again. {OTHERWISE}"
        )
    _check_prefix(model, config)
    _check_reft(model, config)
    if any(isinstance(part, LoRAMergedLinear) for part in model.modules()) and any(
        _is_vera(part) or isinstance(part, MTLLoRAConfig) or getattr(part, "use_dora", False)
        for part in _parts(config)
    ):
        raise ConfigurationError(
            "LoRA must be plain where one matrix makes queries, keys and values. Found "
            f"`{type(config).__name__}` for `{kind}`. Write `LoRAConfig()`."
        )


def check_added(model: Any, name: str, config: Any) -> None:
    """Refuse matrices that VeRA would share between layers of several sizes.

    Args:
        model: The model.
        name: The name of an adapter in it.
        config: Its configuration.

    Raises:
        ConfigurationError: If there are several sizes.
    """
    if any(_is_vera(part) for part in _parts(config)):
        places = [
            part for part in model.modules() if isinstance(part, LoRALayer) and name in part.loras
        ]
        sizes = sorted({(part.in_features, part.out_features) for part in places})
        if len(sizes) > 1:
            raise ConfigurationError(
                "VeRA must be put into layers of one size, between which its matrices are shared."
                f" Found {sizes} in `{type(model).__name__}`. Write other `attn_matrices`, or"
                " `LoRAConfig()`."
            )


def _check_prefix(model: Any, config: Any) -> None:
    """Refuse prefixes that attention does not see.

    The library marks a prefix by what means "masked" in the boolean masks that these decoders make
    for all attention but "eager", where it is added.
    """
    attention = model.config._attn_implementation
    if (
        model.config.model_type in _MASKS_BOTH_WAYS
        and attention != "eager"
        and any(isinstance(part, PrefixTuningConfig) for part in _parts(config))
    ):
        raise ConfigurationError(
            f"Prefix tuning by the library `adapters` has an effect in `{type(model).__name__}`"
            " only with the "
            f'attention "eager". Found "{attention}". Write `from_pretrained(...,'
            ' attn_implementation="eager")`.'
        )


def splits_batches(config: Any) -> bool:
    """Whether `BatchSplit` runs each row through an adapter of its own: bottleneck adapters, but no invertible ones."""
    return all(isinstance(part, BnConfig) and not part.inv_adapter for part in _parts(config))


def check_mean(config: Any) -> None:
    """Refuse the mean of several adapters where it would be none: of orthogonal matrices it is not orthogonal.

    Raises:
        ConfigurationError: If the configuration has such matrices.
    """
    if any(_is_orthogonal(part) for part in _parts(config)):
        raise ConfigurationError(
            "A language can start from the mean of several where their adapters have one. Found"
            ' orthogonal ReFT, whose mean is not orthogonal. Write `copy_from="sw"` with one'
            " language, or use `NoReftConfig()`."
        )


def _check_reft(model: Any, config: Any) -> None:
    """Refuse ReFT in precisions in which it fails: where half of it is empty, that half is in float32."""
    half = model.dtype in (torch.float16, torch.bfloat16)
    if half and any(_is_orthogonal(part) for part in _parts(config)):
        raise ConfigurationError(
            "Orthogonal ReFT must be in float32 or float64, in which torch makes matrices"
            f" orthogonal. Found {model.dtype}. Load the model in float32 and train with"
            " `bf16=True`, or write `NoReftConfig()`."
        )
    for part in _parts(config):
        one_sided = isinstance(part, ReftConfig) and 0 in (
            part.prefix_positions,
            part.suffix_positions,
        )
        if one_sided and model.dtype != torch.float32:
            raise ConfigurationError(
                "ReFT must be at both ends of a text where the model is not in float32. Found"
                f" prefix_positions={part.prefix_positions} and"
                f" suffix_positions={part.suffix_positions} in {model.dtype}. Write for example"
                " `suffix_positions=3`, or load the model in float32 and train with `bf16=True`."
            )


def _parts(config: Any) -> Iterator[Any]:
    """The configurations in a union, or the one that there is."""
    yield from getattr(config, "configs", [config])


def _is_vera(config: Any) -> bool:
    return isinstance(config, LoRAConfig) and any(
        isinstance(one, float) for one in (config.vera_d, config.vera_b)
    )


def _is_orthogonal(config: Any) -> bool:
    return isinstance(config, ReftConfig) and config.orthogonality

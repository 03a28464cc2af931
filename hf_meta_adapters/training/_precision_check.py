"""Whether the types of the trained weights allow what the arguments ask for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._combined_arguments import needs_meta_gradient
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_IN_FLOAT32 = (
    ' Pass `dtype="float32"` to `from_pretrained` (`--dtype float32` in a recipe), and train with'
    " `bf16=True`"
)
_AS_LORA = (
    "; or leave the base as it is and make θ a LoRA, whose weights are in float32:"
    ' `get_language_model(..., shared=LoraConfig(target_modules="all-linear"))` (`--shared lora`)'
)


def check_precision(model: LanguageAdapterModel, args: MetaAdapterTrainingArguments) -> None:
    """Check, before any work, that θ and φ are precise enough to be trained.

    transformers 5 loads a checkpoint in the type that it was stored in, which for most decoders is
    bfloat16.

    Args:
        model: The model.
        args: The arguments.

    Raises:
        ConfigurationError: If a finite difference would move a θ that has too few digits, or fp16
            would scale the gradients of weights in half precision, which torch does not.
    """
    found, cure = _low_precision(model.shared_parameters()), _IN_FLOAT32 + _AS_LORA
    language: dict[str, Tensor] = {}
    for key in model.languages:
        language.update(model.language_parameters(key))

    if found and _takes_differences(args, has_adapters=bool(language)):
        raise ConfigurationError(
            "A finite difference, the default estimator, needs shared weights θ in float32, in"
            f' which θ + εv differs from θ. Found {found}.{cure}; or use `meta_gradient="exact"`.'
        )

    if not found:
        found, cure = _low_precision(language), _IN_FLOAT32
    if not found:
        return

    if args.fp16:
        raise ConfigurationError(
            "`fp16=True` scales gradients, which torch does for weights in float32 only. Found"
            f" {found}.{cure}."
        )

    # Such a model can be trained, and some users do it on purpose.
    warnings.warn(
        "The optimizer updates weights in the type that they have, and half precision rounds away"
        f" updates that are small beside a weight. Found {found}.{cure}.",
        stacklevel=4,
    )


def _takes_differences(args: MetaAdapterTrainingArguments, *, has_adapters: bool) -> bool:
    takes_meta = needs_meta_gradient(
        args.shared_update, args.adapter_update, has_adapters=has_adapters
    )
    return takes_meta and args.meta_gradient == "finite_difference"


def _low_precision(parameters: Mapping[str, Tensor]) -> str:
    """The first parameter of fewer than 32 bits, in words; "" if there is none."""
    for name, parameter in parameters.items():
        if parameter.is_floating_point() and torch.finfo(parameter.dtype).bits < 32:
            return f"`{name}` in {str(parameter.dtype).removeprefix('torch.')}"
    return ""

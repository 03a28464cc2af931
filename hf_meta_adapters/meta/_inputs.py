"""Checks of the arguments of the outer step, before any pass is taken."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_meta_adapters._typing import Language, MicroBatches, Parameters
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta._options import MetaOptions
from hf_meta_adapters.meta.vectors import is_sharded


def check_inputs(
    train_losses: Mapping[Language, MicroBatches],
    meta_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    options: MetaOptions,
) -> torch.device:
    """Check languages and parameters, and return the device of θ.

    Args:
        train_losses: The training losses.
        meta_losses: The validation losses.
        shared: θ.
        language: φ of each language.
        options: How the meta-gradient is taken.

    Returns:
        The device of the first parameter.

    Raises:
        LanguageError: If there is no language, or the arguments name different ones.
        ConfigurationError: If θ cannot be moved as the options need it.
    """
    if not train_losses:
        raise LanguageError(
            "The outer step needs the training loss of at least one language. Found none. Write for"
            ' example `train_losses={"sw": lambda: ...}`.'
        )
    for name, found in (("meta_losses", meta_losses), ("language", language)):
        missing = [key for key in train_losses if key not in found]
        if missing:
            raise LanguageError(
                f"`{name}` must have every language of `train_losses`. Found none of {missing}; it"
                f" has {list(found)}. Add them, or leave them out of `train_losses`."
            )
    if options.meta_languages == "others" and len(meta_losses) < 2:
        raise ConfigurationError(
            '`meta_languages="others"` needs at least two languages. Found '
            f'{list(meta_losses)}. Write `meta_languages="all"`.'
        )
    _check_movable(shared, options)
    every = [*shared.values(), *(value for own in language.values() for value in own.values())]
    if not every:
        raise ConfigurationError(
            "The outer step needs parameters. Found neither shared nor language-specific ones. Look"
            " what was frozen."
        )
    return every[0].device


def _check_movable(shared: Parameters, options: MetaOptions) -> None:
    if options.meta_gradient == "first_order" and options.lookahead == "none":
        return
    advice = (
        'Make part of the model trainable (`shared="all"`, a regular expression, or a PeftConfig'
        ' such as LoraConfig() over a frozen base), or write `meta_gradient="first_order",'
        ' lookahead="none"`.'
    )
    if not shared:
        raise ConfigurationError(
            f"The virtual step moves the shared weights θ. Found no shared parameter. {advice}"
        )
    _check_whole(shared, options)
    for name, parameter in shared.items():
        if not parameter.is_floating_point():
            raise ConfigurationError(
                f"The virtual step moves the shared weights θ. Found `{name}` of dtype"
                f" {parameter.dtype}, a quantised weight that cannot be moved. {advice}"
            )
        if not parameter.requires_grad:
            raise ConfigurationError(
                f"The virtual step moves the shared weights θ. Found `{name}`, which is frozen."
                f" {advice}"
            )
        if options.meta_gradient == "finite_difference" and torch.finfo(parameter.dtype).bits < 32:
            raise ConfigurationError(
                "A finite difference needs shared weights in which θ + εv differs from θ: float32"
                f" or float64. Found `{name}` of dtype {parameter.dtype}. Load the model in float32"
                ' and train it with bf16 or fp16 autocast, or write `meta_gradient="exact"`.'
            )


def _check_whole(shared: Parameters, options: MetaOptions) -> None:
    """Sharded parameters are gathered outside of autograd: backward passes see them, gradients of gradients do not."""
    sharded = next((name for name, parameter in shared.items() if is_sharded(parameter)), None)
    if sharded is None:
        return
    if options.meta_gradient in ("exact", "forward_mode"):
        raise ConfigurationError(
            "Parameters that are sharded over processes (FSDP2) are gathered outside of autograd,"
            " which thus takes "
            f'no gradient of their gradient. Found `meta_gradient="{options.meta_gradient}"` with'
            " the sharded "
            f'`{sharded}`. Write `meta_gradient="finite_difference"`, or replicate the model (DDP).'
        )
    if options.cpu_offload:
        raise ConfigurationError(
            "`cpu_offload` keeps whole parameters on the CPU; sharded ones are divided among the"
            f" processes already. Found it with the sharded `{sharded}`. Leave it out."
        )

"""Checks of the arguments of the outer step, before any pass is taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, MicroBatches, Parameters
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta.options import MetaOptions
from hf_meta_adapters.meta.outer_step_settings import OuterStepSettings
from hf_meta_adapters.meta.sampled_losses import SampledLosses
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery
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
        ConfigurationError: If a parameter is frozen, or θ cannot be moved in the way that the
            options need.
    """
    if options.lookahead == "next":
        raise ConfigurationError(
            '`lookahead="next"` takes the training losses of the next step for validation losses,'
            " and so needs the step before. Found it in `meta_gradient`, which knows one step. Use"
            " `next_step`, which is given what was kept of it."
        )

    _check_any(train_losses)
    named = options.named_meta_languages()
    if named is None:
        _check_languages("meta_losses", meta_losses, train_losses, "`train_losses`")
    else:
        _check_languages("meta_losses", meta_losses, named, "`meta_languages`")
    _check_languages("language", language, [*train_losses, *meta_losses], "the losses")
    _check_counted(meta_losses, named)
    check_samples(train_losses, options)
    if options.meta_languages == "others" and len(meta_losses) < 2:
        raise ConfigurationError(
            '`meta_languages="others"` needs at least two languages. Found'
            f' {list(meta_losses)}. Use `meta_languages="all"`.'
        )

    check_trained(shared, language)
    _check_movable(shared, options)

    every = every_parameter(shared, language)
    if not every:
        raise ConfigurationError(
            "The outer step needs parameters. Found neither shared nor language-specific ones."
            " Check what you froze."
        )

    return every[0].device


def check_surgery(settings: OuterStepSettings, for_languages: Sequence[Language] | None) -> None:
    """Check that gradient surgery can act in an outer step.

    Args:
        settings: The settings of the step.
        for_languages: The languages whose meta-gradients are wanted, if these are not all.

    Raises:
        ConfigurationError: If it cannot.
    """
    if settings.surgery is None:
        return

    for found, is_used in (
        ("`for_languages`, with which a step may take only some", for_languages is not None),
        (
            '`shared_update="project"`, which changes the mean of them',
            settings.options.shared_update == "project",
        ),
    ):
        if is_used:
            raise ConfigurationError(
                "Gradient surgery weighs the training gradients of all languages of a step. Found"
                f" {settings.surgery!r} beside {found}. Leave one of the two out."
            )


def check_one_weighing(surgery: Surgery | None, weights: StepWeights | None) -> None:
    """Refuse both gradient surgery and given weights of the languages in the gradient of θ."""
    if surgery is not None and weights is not None:
        raise ConfigurationError(
            "Gradient surgery computes the weights of the languages in the gradient of θ. Found"
            f" {surgery!r} beside the weights {dict(weights.weights)}. Leave one of the two out."
        )


def check_next_inputs(
    train_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    options: MetaOptions,
) -> torch.device:
    """Check languages and parameters of a step that looks ahead to the next one.

    Args:
        train_losses: The training losses.
        shared: θ.
        language: φ of each language.
        options: How the meta-gradient is taken.

    Returns:
        The device of the first parameter.

    Raises:
        LanguageError: If there is no language, or one has no φ.
        ConfigurationError: If a parameter is frozen, or θ cannot be moved in the way that the
            options need.
    """
    _check_any(train_losses)
    _check_languages("language", language, train_losses, "`train_losses`")
    check_samples(train_losses, options)
    check_trained(shared, language)
    _check_movable(shared, options)
    return every_parameter(shared, language)[0].device


def every_parameter(shared: Parameters, language: Mapping[Language, Parameters]) -> list[Tensor]:
    """θ and all φ_l, one after the other."""
    every = list(shared.values())
    for parameters in language.values():
        every += parameters.values()

    return every


def check_trained(shared: Parameters, language: Mapping[Language, Parameters]) -> None:
    """Check that gradients can be taken for all parameters of a step.

    Args:
        shared: θ.
        language: φ of each language.

    Raises:
        ConfigurationError: If one of them does not require gradients.
    """
    for parameters in (shared, *language.values()):
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                continue

            # torch takes no gradient of whole numbers
            state = "frozen" if parameter.is_floating_point() else f"quantized ({parameter.dtype})"
            raise ConfigurationError(
                "Every shared and language-specific parameter of a step must require gradients."
                f" Found `{name}`, which is {state}. Call `requires_grad_(True)` on it. To leave"
                " shared weights out of the step, freeze them before `get_language_model`, or pass"
                ' it `shared="none"`; to train some languages alone, call'
                " `model.train_only(...)`."
            )


def _check_any(train_losses: Mapping[Language, MicroBatches]) -> None:
    if not train_losses:
        raise LanguageError(
            "The outer step needs the training loss of at least one language. Found none. Pass, for"
            ' example, `train_losses={"sw": lambda: ...}`.'
        )


def _check_counted(
    meta_losses: Mapping[Language, MicroBatches], named: Mapping[Language, float] | None
) -> None:
    idle = [key for key in meta_losses if named is not None and key not in named]
    if idle:
        raise LanguageError(
            "Every language of `meta_losses` must be one that `meta_languages` names, with a weight"
            f" over 0. Found {idle} beside {list(named or ())}. Leave these losses out, or name"
            " their languages."
        )


def _check_languages(
    name: str, present: Collection[Language], required: Collection[Language], source: str
) -> None:
    missing = [key for key in required if key not in present]

    if missing:
        raise LanguageError(
            f"`{name}` must have every language of {source}. Found none of {missing}; it has"
            f" {list(present)}. Add them, or leave them out of {source}."
        )


def _check_movable(shared: Parameters, options: MetaOptions) -> None:
    if options.meta_gradient == "first_order" and options.lookahead == "none":
        # θ stays where it is
        return

    if not shared:
        raise _cannot_move("no shared parameter")

    _check_sharding(shared, options)

    for name, parameter in shared.items():
        _check_parameter(name, parameter, options)


def _check_parameter(name: str, parameter: Tensor, options: MetaOptions) -> None:
    is_low_precision = torch.finfo(parameter.dtype).bits < 32
    if options.meta_gradient == "finite_difference" and is_low_precision:
        raise ConfigurationError(
            "A finite difference needs shared weights in which θ + εv differs from θ: float32"
            f" or float64. Found `{name}` of dtype {parameter.dtype}. Load the model with"
            ' `dtype="float32"` and train it with bf16 or fp16 autocast, make θ an adapter in'
            " float32 over a base that is frozen (`shared=LoraConfig(...)`), or use"
            ' `meta_gradient="exact"`.'
        )


def _check_sharding(shared: Parameters, options: MetaOptions) -> None:
    """Refuse what FSDP2 rules out, which gathers parameters outside of autograd."""
    # FSDP2 shards whole layers: one parameter is enough to tell, and to name.
    sharded = next((name for name, parameter in shared.items() if is_sharded(parameter)), None)
    if sharded is None:
        return

    if options.meta_gradient in ("exact", "forward_mode"):
        raise ConfigurationError(
            "Parameters that are sharded over processes (FSDP2) are gathered outside of autograd,"
            " which therefore takes no gradient of their gradient. Found"
            f' `meta_gradient="{options.meta_gradient}"` with the sharded `{sharded}`. Use'
            ' `meta_gradient="finite_difference"`, or replicate the model (DDP).'
        )

    if options.cpu_offload:
        raise ConfigurationError(
            "`cpu_offload` keeps whole parameters on the CPU, but sharded parameters are already"
            f" divided among the processes. Found it with the sharded `{sharded}`. Leave it out."
        )


def _cannot_move(obstacle: str) -> ConfigurationError:
    return ConfigurationError(
        f"The virtual step moves the shared weights θ. Found {obstacle}. Make part of the model"
        ' trainable (`shared="all"`, a regular expression, or a PeftConfig such as LoraConfig()'
        " over a frozen base), or train φ on the training text, without a virtual step:"
        ' `adapter_update="train"` in the arguments of the Trainer, `joint_step` in a loop of your'
        ' own. With `meta_gradient="first_order", lookahead="none"`, φ learns from the held-out'
        " text alone."
    )


def check_validation(weights: StepWeights | None, options: MetaOptions) -> None:
    """Check that v is computed, and kept beside θ, where it is wanted.

    Args:
        weights: The weights of the languages in a step.
        options: How the meta-gradient is taken.

    Raises:
        ConfigurationError: If it is not.
    """
    if weights is None or not weights.keep_validation:
        return

    for found, is_used in (
        (
            '`meta_gradient="first_order"`, which does not compute it',
            options.meta_gradient == "first_order",
        ),
        ("`cpu_offload=True`, which moves it to the CPU", options.cpu_offload),
    ):
        if is_used:
            raise ConfigurationError(
                "Weights by alignment compare training gradients of θ with the validation gradient"
                f" v. Found {found}. Leave one of the two out."
            )


def check_samples(losses: Mapping[Language, MicroBatches], options: MetaOptions) -> None:
    """Check that there is a sample for `mixed_rows`, since losses are not told apart by rows."""
    if options.mixed_rows == 1.0:
        return

    for key, own in losses.items():
        # a language without a label has no loss, and so no product
        has_loss = callable(own) or len(own) > 0
        if has_loss and not isinstance(own, SampledLosses):
            raise ConfigurationError(
                f"`mixed_rows={options.mixed_rows}` takes the mixed product of a sample, and needs"
                f" `SampledLosses` of each language. Found {type(own).__name__} for {key!r}. Use"
                " `meta_step`, which divides batches, or leave `mixed_rows` out."
            )

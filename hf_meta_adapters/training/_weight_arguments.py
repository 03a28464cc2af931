"""The arguments of languages' weights: which of them work together, and with which model."""

from __future__ import annotations

from collections.abc import Mapping

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.alignment import Alignment
from hf_meta_adapters.meta.famo import Famo
from hf_meta_adapters.meta.language_weights import LanguageWeights
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._argument_checks import check_choice, check_rate
from hf_meta_adapters.training._pass_arguments import first_size

WEIGHTS: Mapping[str, type[LanguageWeights]] = {"alignment": Alignment, "famo": Famo}
"""Value of `language_weights` → what learns the weights; "uniform" has nothing to learn."""


def check_weight_arguments(arguments: Mapping[str, object]) -> None:
    """Check that no argument asks for what weights of languages rule out.

    Args:
        arguments: The arguments, by name.

    Raises:
        ConfigurationError: If one does.
    """
    chosen, rate = arguments["language_weights"], arguments["language_weights_rate"]
    check_choice("language_weights", chosen, ("uniform", *WEIGHTS))
    check_rate("language_weights_rate", rate)

    if chosen == "uniform":
        if rate is not None:
            raise ConfigurationError(
                "`language_weights_rate` is the step size of learned weights. Found"
                f' {rate!r} with `language_weights="uniform"`. Leave one of the two out.'
            )
        return

    takes_meta = arguments["adapter_update"] != "train"
    passes, update = first_size(arguments["languages_per_pass"]), arguments["shared_update"]
    for found, reason, is_used in (
        (
            'lookahead="next"',
            "differentiates the mean of them in the next step",
            takes_meta and arguments["lookahead"] == "next",
        ),
        (
            "languages_per_step=1",
            "has one language in a step, whose weight is then 1",
            arguments["languages_per_step"] == 1,
        ),
        (f"languages_per_pass={passes}", "takes one gradient for several languages", passes != 1),
        (
            f'shared_update="{update}"',
            "has weights of its own",
            update not in ("mean", "project"),
        ),
    ):
        if is_used:
            raise ConfigurationError(
                f'`language_weights="{chosen}"` weighs the training gradients of single languages.'
                f" Found `{found}`, which {reason}. Leave one of the two out."
            )

    if chosen == "alignment":
        _check_alignment(arguments)


def learned_weights(
    model: LanguageAdapterModel,
    chosen: str,
    rate: float | None,
    *,
    takes_meta: bool,
    sharded: bool,
) -> LanguageWeights | None:
    """What learns the weights of a model's languages, at its beginning.

    Args:
        model: The model.
        chosen: `language_weights`.
        rate: `language_weights_rate`.
        takes_meta: Whether the run takes meta-gradients.
        sharded: Whether parameters are divided among processes (FSDP2).

    Returns:
        It; `None` for equal weights.

    Raises:
        ConfigurationError: If the weights would have no effect, or nothing to learn from.
    """
    if chosen == "uniform":
        return None

    compares = WEIGHTS[chosen].compares
    for needed, found, lacks in (
        ("several languages", f"one, {model.languages[0]!r}", len(model.languages) < 2),
        (
            "shared weights θ that are trained",
            'a model without any (`shared="none"`)',
            not model.shared_parameters(),
        ),
        (
            "the validation gradient of the meta step",
            "a model in which no language has parameters of its own, and which is trained"
            ' without meta-gradients: use `"famo"`',
            compares and not takes_meta,
        ),
        (
            "whole gradients of θ",
            'θ sharded among processes (FSDP): use `"famo"`',
            compares and sharded,
        ),
    ):
        if lacks:
            raise ConfigurationError(
                f'`language_weights="{chosen}"` needs {needed}. Found {found}. Or leave'
                " `language_weights` out."
            )

    return WEIGHTS[chosen](model.languages, rate)


def _check_alignment(arguments: Mapping[str, object]) -> None:
    """Check that v, the validation gradient, is computed and kept."""
    for name, value, reason in (
        ("adapter_update", "train", 'trains without validation text: use `"famo"`'),
        ("meta_gradient", "first_order", "does not compute it"),
        ("cpu_offload", True, "moves it to the CPU"),
    ):
        if arguments[name] == value:
            raise ConfigurationError(
                '`language_weights="alignment"` compares the training gradients of θ with the'
                f" gradient v of the validation losses. Found `{name}={value!r}`, which {reason}."
                " Leave one of the two out."
            )

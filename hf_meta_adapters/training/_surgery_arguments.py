"""Which arguments gradient surgery works with; it takes the place of the mean in θ's update."""

from __future__ import annotations

from collections.abc import Mapping

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.surgery import SURGERY_GRADIENTS
from hf_meta_adapters.meta.weightings import METHODS, check_method
from hf_meta_adapters.training._argument_checks import check_choice
from hf_meta_adapters.training._pass_arguments import first_size


def step_options(given: Keywords) -> Keywords:
    """The options of an outer step: a method of surgery is passed beside them.

    Args:
        given: The options as the arguments have them.

    Returns:
        The same, with `"mean"` for the name of a method.

    Raises:
        ConfigurationError: If θ's update is of no known kind.
    """
    update = given["shared_update"]
    if update in (None, "mean", "project"):
        return dict(given)

    if update not in METHODS:
        check_method(str(update))
    return {**given, "shared_update": "mean"}


def check_surgery_arguments(arguments: Mapping[str, object]) -> None:
    """Check that no argument asks for what gradient surgery rules out.

    Args:
        arguments: The arguments, by name.

    Raises:
        ConfigurationError: If one does.
    """
    check_choice("surgery_gradients", arguments["surgery_gradients"], SURGERY_GRADIENTS)
    update = arguments["shared_update"]

    if update not in METHODS:
        if arguments["surgery_gradients"] != "auto":
            raise ConfigurationError(
                "`surgery_gradients` says where gradient surgery has its weights from. Found"
                f' "{arguments["surgery_gradients"]}" with `shared_update="{update}"`, which has no'
                ' weights. Leave it out, or set, for example, `shared_update="pcgrad"`.'
            )
        return

    passes = first_size(arguments["languages_per_pass"])
    looks_ahead = arguments["lookahead"] == "next" and arguments["adapter_update"] != "train"
    for found, reason, is_used in (
        ('lookahead="next"', "differentiates the mean of them in the next step", looks_ahead),
        (
            "languages_per_step=1",
            "has one language in a step, and nothing to weigh",
            arguments["languages_per_step"] == 1,
        ),
        (
            f"languages_per_pass={passes}",
            "takes one gradient for several languages",
            passes != 1,
        ),
    ):
        if is_used:
            raise ConfigurationError(
                f'`shared_update="{update}"` weighs the training gradients of single languages.'
                f" Found `{found}`, which {reason}. Leave one of the two out."
            )

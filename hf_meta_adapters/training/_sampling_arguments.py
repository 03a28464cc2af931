"""The arguments of sampling: which of them work together, and the plan that they stand for."""

from __future__ import annotations

from hf_meta_adapters.data.cooldown import Cooldown
from hf_meta_adapters.data.sampling_plan import SamplingPlan
from hf_meta_adapters.data.unimax import UniMax
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._argument_checks import check_exponent, check_rate

SAMPLINGS = ("temperature", "unimax", "cooldown")
DEFAULT_ALPHA = 0.7
_END_ALPHA = 1.0


def sampling_plan(
    sampling: str,
    *,
    alpha: float,
    max_epochs: float | None,
    end_alpha: float | None,
    max_steps: int,
    epochs: float,
) -> SamplingPlan | None:
    """The plan of a run that arguments stand for.

    Args:
        sampling: One of `SAMPLINGS`.
        alpha: `sampling_alpha`.
        max_epochs: `sampling_max_epochs`.
        end_alpha: `sampling_end_alpha`.
        max_steps: The steps of the run; -1 for epochs.
        epochs: The epochs of the run.

    Returns:
        The plan; `None` for sampling by temperature, which needs none.

    Raises:
        ConfigurationError: If an argument is missing, or has no effect beside the others.
    """
    for name, value, owner in (
        ("sampling_max_epochs", max_epochs, "unimax"),
        ("sampling_end_alpha", end_alpha, "cooldown"),
    ):
        if value is not None and sampling != owner:
            raise ConfigurationError(
                f'`{name}` belongs to `sampling="{owner}"`. Found {value!r} with'
                f' `sampling="{sampling}"`. Leave one of the two out.'
            )

    # The Trainer takes any number of steps under 1 for epochs.
    steps = max_steps if max_steps > 0 else None
    if sampling == "unimax":
        return _unimax(alpha, max_epochs, steps, epochs)

    if sampling == "cooldown":
        end = _END_ALPHA
        if end_alpha is not None:
            check_exponent("sampling_end_alpha", end_alpha)
            end = end_alpha
        return Cooldown(steps, epochs, alpha, end)

    return None


def check_leaves_some_out(sampling: str, languages_per_step: int | None) -> None:
    """Check that a step leaves languages out, where the arguments say how often each is in one.

    Args:
        sampling: One of `SAMPLINGS`.
        languages_per_step: The languages of a step; `None` for all.

    Raises:
        ConfigurationError: If it does not.
    """
    if sampling != "temperature" and languages_per_step is None:
        raise ConfigurationError(
            f'`sampling="{sampling}"` says how often a language is in a step, so a step must leave'
            " some out. Found all languages in every step. Set `languages_per_step`, for example"
            " to 4, or leave out `sampling`."
        )


def _unimax(alpha: float, max_epochs: float | None, steps: int | None, epochs: float) -> UniMax:
    if max_epochs is None:
        raise ConfigurationError(
            '`sampling="unimax"` needs `sampling_max_epochs`: how often the rows of a language may'
            " be read in the run. Found none. Set it, for example to 1 or 5."
        )

    check_rate("sampling_max_epochs", max_epochs)
    if alpha != DEFAULT_ALPHA:
        raise ConfigurationError(
            '`sampling="unimax"` samples languages equally, up to the bound of'
            f" `sampling_max_epochs`, and has no exponent. Found `sampling_alpha={alpha!r}`. Leave"
            ' it out, or use `sampling="temperature"`.'
        )
    return UniMax(steps, epochs, max_epochs)

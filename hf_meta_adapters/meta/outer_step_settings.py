"""What an outer step is asked for: its options, and which gradients it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_meta_adapters.meta.options import MetaOptionKeywords, MetaOptions, meta_options
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["OuterStepKeywords", "OuterStepSettings", "outer_step_settings"]


class OuterStepKeywords(MetaOptionKeywords, total=False):
    """The keyword arguments that say which gradients an outer step takes, and how."""

    preset: str | None
    seed: int
    train_gradients: bool
    surgery: Surgery | None
    step_weights: StepWeights | None


@dataclass(frozen=True)
class OuterStepSettings:
    """Which gradients an outer step takes, and how: `OuterStepKeywords`, checked and completed.

    Args:
        options: How the meta-gradient is taken.
        seed: The seed of the draws of languages.
        train_gradients: Whether the training gradients of φ are returned too.
        surgery: What weighs the training gradients of θ; `None` for the mean.
        step_weights: The weights of the languages in the gradient of θ; `None` for the mean.
    """

    options: MetaOptions
    seed: int
    train_gradients: bool
    surgery: Surgery | None = None
    step_weights: StepWeights | None = None


def outer_step_settings(
    preset: str | None = None,
    seed: int = 0,
    train_gradients: bool = True,
    surgery: Surgery | None = None,
    step_weights: StepWeights | None = None,
    **keywords: Unpack[MetaOptionKeywords],
) -> OuterStepSettings:
    """Check the keyword arguments of an outer step, and fill in their defaults.

    Args:
        preset: As for `meta_options`.
        seed: The seed of the draws of languages.
        train_gradients: Whether the training gradients of φ are returned too.
        surgery: What weighs the training gradients of θ; `None` for the mean.
        step_weights: The weights of the languages in the gradient of θ; `None` for the mean.
        **keywords: As for `meta_options`.

    Returns:
        The settings.

    Raises:
        ConfigurationError: As by `meta_options`.
    """
    options = meta_options(preset, **keywords)
    return OuterStepSettings(options, seed, train_gradients, surgery, step_weights)

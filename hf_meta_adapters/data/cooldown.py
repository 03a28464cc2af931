"""Cooldown: small languages more often at first, and less and less so as the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.sampling_plan import Counts, SamplingPlan
from hf_meta_adapters.data.temperature import apportion, bounded_shares, temperature_distribution
from hf_meta_adapters.errors import ConfigurationError

_PARTS = 10


@dataclass(frozen=True)
class Cooldown(SamplingPlan):
    """Sample by q_l ∝ n_l^α, with an α that rises in the course of the run.

    After Li et al. (NAACL 2025, arXiv:2410.04579), who sample at a high temperature T = 1/α at
    first, for fast progress, and lower it in training, before small languages are overfitted. Their
    schedule is not this one. Here the S steps of the run are divided into P = min(10, S) parts of
    equal length up to one step, and in part p = 0, …, P − 1

        α_p = α + (α_end − α) · p / (P − 1).

    A language is in S_p · k · q_l(α_p) of the S_p steps of a part, rounded so that a part is filled
    exactly; what rounding takes or gives is made up for in the next parts, so that rare languages
    do not get lost. No language is more than once in a step, and every language is in a step of
    the first part, if that has room for all.

    Args:
        steps: S, the number of optimizer steps of the run; `None` for `epochs`.
        epochs: The length of the run in epochs, where `steps` is `None`.
        alpha: α, the exponent in the first part.
        end_alpha: α_end > α, the exponent in the last part.

    Raises:
        ConfigurationError: If α_end is not greater than α.

    Example:
        >>> plan = Cooldown(steps=30, alpha=0.0, end_alpha=1.0)
        >>> sizes = {"en": 900, "sw": 100}
        >>> parts = plan.parts(sizes, steps_per_epoch=1, languages_per_step=1, rows=1)
        >>> [part["sw"] for part in parts]
        [1, 2, 1, 1, 1, 0, 1, 0, 1, 0]
    """

    alpha: float = 0.3
    end_alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check that the temperature falls."""
        if not self.end_alpha > self.alpha:
            raise ConfigurationError(
                "Cooldown samples small languages less and less often, so the exponent must rise."
                f" Found {self.alpha!r} at the beginning and {self.end_alpha!r} at the end. Lower"
                " `sampling_alpha`, or raise `sampling_end_alpha`."
            )

    def _counts(
        self,
        sizes: Mapping[Language, int],
        passes: Mapping[Language, Fraction],
        steps: int,
        languages_per_step: int,
    ) -> list[Counts]:
        parts = min(_PARTS, steps)
        owed = dict.fromkeys(sizes, Fraction(0))
        counts = []

        for part in range(parts):
            length = steps * (part + 1) // parts - steps * part // parts
            total = length * languages_per_step
            least = int(part == 0 and total >= len(sizes))

            alpha = self.alpha + (self.end_alpha - self.alpha) * part / max(parts - 1, 1)
            weights = temperature_distribution(sizes, alpha)
            exact = {key: Fraction(weight) for key, weight in weights.items()}
            for key, share in bounded_shares(total, exact, 0, length).items():
                owed[key] += share

            due = {key: max(debt, Fraction(0)) for key, debt in owed.items()}
            counts.append(apportion(total, due, minimum=least, maximum=length))
            for key, count in counts[-1].items():
                owed[key] -= count

        return counts

"""Intervals that hold all at once, however many there are."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

__all__ = ["Estimate", "simultaneous"]


class Estimate(NamedTuple):
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval lies above 0; never with ends that are NaN."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0


def simultaneous(estimate: Estimate, confidence: float, comparisons: int) -> Estimate:
    """Return the interval, widened so that `comparisons` of its kind hold at once.

    Of twenty intervals of 95 %, one misses the truth on average, so the largest of many is no
    finding. By Bonferroni, each of N has to cover 1 − (1 − confidence) / N. Both sides grow by the
    ratio of the normal quantiles, since resampling would need far more resamples for such tails.

    Args:
        estimate: The number with its own interval.
        confidence: Coverage of that interval.
        comparisons: N, at least 1.

    Returns:
        The wider interval.

    Example:
        >>> wide = simultaneous(Estimate(0.5, 0.1, 0.9), confidence=0.95, comparisons=10)
        >>> round(wide.low, 2), round(wide.high, 2)
        (-0.07, 1.07)
    """
    error, normal = 1 - confidence, NormalDist()
    factor = normal.inv_cdf(1 - error / 2 / comparisons) / normal.inv_cdf(1 - error / 2)

    value, low, high = estimate
    return Estimate(value, value - factor * (value - low), value + factor * (high - value))

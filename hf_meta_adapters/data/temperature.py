"""How often each language is taken."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import isfinite

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError


def temperature_distribution(sizes: Mapping[Language, int], alpha: float) -> dict[Language, float]:
    """Compute q_l = n_l^α / Σ_k n_k^α, the smoothed share of each language (Lample and Conneau, 2019).

    Args:
        sizes: n_l, the number of examples of each language.
        alpha: α in [0, 1]: 1 keeps the proportions, 0 makes them equal. A temperature T is α = 1/T.

    Returns:
        q_l, which sum to 1.

    Raises:
        ConfigurationError: If α is outside [0, 1].
        DataError: If a language has no examples.

    Example:
        >>> temperature_distribution({"en": 900, "sw": 100}, alpha=0.5)
        {'en': 0.75, 'sw': 0.25}
    """
    if not 0 <= alpha <= 1:
        raise ConfigurationError(
            f"α must be in [0, 1]. Found {alpha!r}. Write a temperature T as α = 1/T, for example"
            " 0.2 for T = 5."
        )
    empty = [key for key, size in sizes.items() if size < 1]
    if empty or not sizes:
        raise DataError(
            f"Every language needs at least one example. Found none for {empty or 'any'}. Leave it"
            " out."
        )
    powers = {key: size**alpha for key, size in sizes.items()}
    total = sum(powers.values())
    return {key: power / total for key, power in powers.items()}


def apportion(
    total: int, weights: Mapping[Language, float], *, minimum: int = 0, maximum: int | None = None
) -> dict[Language, int]:
    """Round total · w_l / Σ w to whole numbers that sum to `total`, by the method of the largest remainder.

    Shares that a bound would cut are set to the bound, and what is left is shared out among the
    others.

    Args:
        total: What is shared out.
        weights: w_l ≥ 0.
        minimum: The smallest share.
        maximum: The largest share; `None` for no bound.

    Returns:
        Whole numbers that sum to `total` exactly; ties go to the language that comes first.

    Raises:
        ConfigurationError: If a weight is negative or not finite, or the bounds do not admit the
            total.

    Example:
        >>> apportion(10, {"en": 0.75, "sw": 0.25})
        {'en': 8, 'sw': 2}
    """
    wrong = {
        key: weight for key, weight in weights.items() if not (isfinite(weight) and weight >= 0)
    }
    if wrong:
        raise ConfigurationError(
            f"Weights must be finite and at least 0. Found {wrong}. Write for example 1.0."
        )
    highest = total if maximum is None else maximum
    if not minimum * len(weights) <= total <= highest * len(weights):
        raise ConfigurationError(
            f"{len(weights)} shares between {minimum} and {highest} must be able to sum to {total}."
            " Found that they cannot. Change the bounds or the total."
        )
    # Fractions: with floats, ties and large totals would be decided by rounding errors.
    shares = _bounded(
        total, {key: Fraction(weight) for key, weight in weights.items()}, minimum, highest
    )
    counts = {key: int(share) for key, share in shares.items()}
    largest_remainder_first = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in largest_remainder_first[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _bounded(
    total: int, weights: Mapping[Language, Fraction], low: int, high: int
) -> dict[Language, Fraction]:
    """Real shares of `total` in proportion to the weights, within the bounds.

    Shares under the lower and over the upper bound pull the rest in opposite directions, so those
    on the side that is off by more are fixed first, and the rest is shared out anew.
    """
    fixed: dict[Language, Fraction] = {}
    while free := [key for key in weights if key not in fixed]:
        rest, mass = total - sum(fixed.values()), sum(weights[key] for key in free)
        share = {
            key: rest * weights[key] / mass if mass else Fraction(rest, len(free)) for key in free
        }
        under = {key: Fraction(low) for key in free if share[key] < low}
        over = {key: Fraction(high) for key in free if share[key] > high}
        if not under and not over:
            fixed.update(share)
            continue
        lacking = sum(low - share[key] for key in under)
        exceeding = sum(share[key] - high for key in over)
        fixed.update(under if lacking >= exceeding else over)
    return {key: fixed[key] for key in weights}

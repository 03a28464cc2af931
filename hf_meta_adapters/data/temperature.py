"""How often each language is taken."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import isfinite

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError


def temperature_distribution(sizes: Mapping[Language, int], alpha: float) -> dict[Language, float]:
    """Compute q_l = n_l^α / Σ_k n_k^α, smoothed shares of the languages (Lample and Conneau, 2019).

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
            f"α must be in [0, 1]. Found {alpha!r}. Pass a temperature T as α = 1/T, for example"
            " 0.2 for T = 5."
        )

    empty = [key for key, size in sizes.items() if size < 1]
    if empty or not sizes:
        raise DataError(
            f"Every language must have at least one example. Found none for {empty or 'any'}."
            " Remove such languages."
        )

    powers = {key: size**alpha for key, size in sizes.items()}
    total = sum(powers.values())
    return {key: power / total for key, power in powers.items()}


def apportion(
    total: int,
    weights: Mapping[Language, float | Fraction],
    *,
    minimum: int = 0,
    maximum: int | None = None,
) -> dict[Language, int]:
    """Round total · w_l / Σ w to whole numbers that sum to `total`, by largest remainders.

    Shares that a bound would cut are set to the bound, and what is left is shared out among the
    other languages.

    Args:
        total: The number to share out.
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
    invalid = {key: weight for key, weight in weights.items() if not isfinite(weight) or weight < 0}
    if invalid:
        raise ConfigurationError(
            f"Weights must be finite and at least 0. Found {invalid}. Use a weight such as 1.0."
        )

    highest = total if maximum is None else maximum
    if not minimum * len(weights) <= total <= highest * len(weights):
        raise ConfigurationError(
            f"{len(weights)} shares between {minimum} and {highest} must be able to sum to {total}."
            " Found that they cannot. Change the bounds or the total."
        )

    # Fractions: with floats, ties and large totals would be decided by rounding errors.
    exact = {key: Fraction(weight) for key, weight in weights.items()}
    shares = bounded_shares(total, exact, minimum, highest)

    # `sorted` is stable, so ties go to the language that comes first.
    counts = {key: int(share) for key, share in shares.items()}
    largest_remainder_first = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in largest_remainder_first[: total - sum(counts.values())]:
        counts[key] += 1

    return counts


def bounded_shares(
    total: int, weights: Mapping[Language, Fraction], low: int, high: int
) -> dict[Language, Fraction]:
    """Compute real shares of `total` in proportion to the weights, within bounds.

    Args:
        total: The number to share out.
        weights: w_l ≥ 0.
        low: The smallest share.
        high: The largest share.

    Returns:
        The shares, which sum to `total` if the bounds admit it.
    """
    fixed: dict[Language, Fraction] = {}

    while free := {key: weight for key, weight in weights.items() if key not in fixed}:
        shares = _shares(total - sum(fixed.values()), free)
        under = {key: Fraction(low) for key, share in shares.items() if share < low}
        over = {key: Fraction(high) for key, share in shares.items() if share > high}
        if not under and not over:
            fixed.update(shares)
            break

        # Raising low shares leaves less for the others, lowering high ones leaves more.
        # Only the side that is off by more is sure to end at its bound, so it alone is fixed,
        # and the rest is shared out anew.
        lacking = sum(low - shares[key] for key in under)
        exceeding = sum(shares[key] - high for key in over)
        if lacking >= exceeding:
            fixed.update(under)
        else:
            fixed.update(over)

    return {key: fixed[key] for key in weights}


def _shares(
    total: Fraction | int, weights: Mapping[Language, Fraction]
) -> dict[Language, Fraction]:
    """Real shares of `total` in proportion to the weights; equal ones if all weights are 0."""
    mass = sum(weights.values())
    if not mass:
        return dict.fromkeys(weights, Fraction(total, len(weights)))

    return {key: total * weight / mass for key, weight in weights.items()}

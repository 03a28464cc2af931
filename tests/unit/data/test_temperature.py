"""Shares and their rounding, against hand-computed values, enumeration and bisection."""

from __future__ import annotations

import itertools
import random

import pytest

from hf_meta_adapters.data.temperature import apportion, temperature_distribution
from hf_meta_adapters.errors import ConfigurationError, DataError


def test_shares_of_hand_computed_examples():
    assert temperature_distribution({"en": 75, "sw": 25}, 1) == {"en": 0.75, "sw": 0.25}
    assert temperature_distribution({"en": 75, "sw": 25}, 0) == {"en": 0.5, "sw": 0.5}
    found = temperature_distribution({"en": 16, "fr": 81, "sw": 1}, 0.25)
    assert found == pytest.approx({"en": 2 / 6, "fr": 3 / 6, "sw": 1 / 6})


def test_a_temperature_is_refused_with_its_alpha():
    with pytest.raises(ConfigurationError, match=r"Found 5\. .* α = 1/T"):
        temperature_distribution({"en": 1}, 5)


@pytest.mark.parametrize("sizes", [{}, {"en": 3, "sw": 0}])
def test_an_empty_language_is_refused(sizes):
    with pytest.raises(DataError, match="at least one example"):
        temperature_distribution(sizes, 1)


def bounded_shares(total: int, weights: dict[str, float], low: int, high: int) -> dict[str, float]:
    """clip(λ · w_l, low, high) with the λ at which they sum to `total`, found by bisection."""
    below, above = 0.0, (high + 1) / min(weights.values())
    for _ in range(200):
        middle = (below + above) / 2
        shares = {key: min(max(middle * weight, low), high) for key, weight in weights.items()}
        below, above = (middle, above) if sum(shares.values()) < total else (below, middle)
    return shares


@pytest.mark.parametrize("seed", range(150))
def test_rounding_is_exact_bounded_and_within_one_of_the_share(seed):
    rng = random.Random(seed)
    weights = {
        str(key): rng.choice([rng.random(), 10 ** rng.uniform(-6, 3), 1.0])
        for key in range(rng.randint(1, 12))
    }
    low = rng.choice([0, 0, 1, 3])
    high = low + rng.randint(0, 20)
    total = rng.randint(low * len(weights), high * len(weights))
    found = apportion(total, weights, minimum=low, maximum=high)
    assert list(found) == list(weights)
    assert sum(found.values()) == total
    expected = bounded_shares(total, weights, low, high)
    for key, count in found.items():
        assert low <= count <= high
        assert abs(count - expected[key]) < 1 + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_no_other_whole_numbers_are_closer(seed):
    rng = random.Random(seed)
    weights = {key: rng.random() for key in "abc"}
    total = rng.randint(1, 12)
    share = [total * weight / sum(weights.values()) for weight in weights.values()]

    def distance(counts: tuple[int, ...]) -> float:
        return sum((count - s) ** 2 for count, s in zip(counts, share, strict=True))

    every = [c for c in itertools.product(range(total + 1), repeat=3) if sum(c) == total]
    assert distance(tuple(apportion(total, weights).values())) == pytest.approx(
        min(map(distance, every))
    )


def test_ties_go_to_the_first_and_large_totals_are_exact():
    assert apportion(2, {"te": 1, "da": 1, "in": 1}) == {"te": 1, "da": 1, "in": 0}
    assert apportion(4, {"te": 0.1, "da": 0.1, "in": 0.1}) == {"te": 2, "da": 1, "in": 1}
    assert apportion(3 * 10**17 + 1, {"te": 1, "da": 1, "in": 1}) == {
        "te": 10**17 + 1,
        "da": 10**17,
        "in": 10**17,
    }


def test_zero_weights_take_what_the_bounds_force_on_them():
    assert apportion(5, {"te": 1, "da": 0}) == {"te": 5, "da": 0}
    assert apportion(5, {"te": 1, "da": 0}, maximum=3) == {"te": 3, "da": 2}


@pytest.mark.parametrize("bounds", [{"minimum": 3}, {"maximum": 2}])
def test_bounds_that_do_not_admit_the_total_are_refused(bounds):
    with pytest.raises(ConfigurationError, match="sum to 5"):
        apportion(5, {"te": 1, "da": 1}, **bounds)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_mean_nothing_are_refused(weight):
    with pytest.raises(ConfigurationError, match="'da'"):
        apportion(5, {"te": 1, "da": weight})

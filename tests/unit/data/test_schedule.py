"""The languages of each step: exact counts, none twice, mixed well."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import pytest

from hf_meta_adapters.data._schedule import language_schedule
from hf_meta_adapters.data.temperature import apportion


@pytest.mark.parametrize("seed", range(200))
def test_counts_are_exact_and_no_step_has_a_language_twice(seed):
    rng = random.Random(seed)
    names = [f"l{number}" for number in range(rng.randint(1, 14))]
    per_step, steps = rng.randint(1, len(names)), rng.randint(1, 50)
    weights = {name: 10 ** rng.uniform(-4, 4) for name in names}
    counts = apportion(steps * per_step, weights, maximum=steps)
    schedule = list(language_schedule(counts, per_step, seed=(seed,)))
    assert len(schedule) == steps
    for languages in schedule:
        assert len(set(languages)) == len(languages) == per_step
        assert languages == [name for name in names if name in languages]
    found = Counter(name for languages in schedule for name in languages)
    assert {name: found[name] for name in names} == counts


def test_every_step_is_in_expectation_the_same_mixture():
    counts = {"en": 6, "fr": 3, "sw": 2, "te": 1}
    draws = 4000
    found = [Counter[str]() for _ in range(6)]
    for seed in range(draws):
        for step, languages in enumerate(language_schedule(counts, 2, seed=(seed,))):
            found[step].update(languages)
    for step in found:
        for name, count in counts.items():
            assert step[name] / draws == pytest.approx(count / 6, abs=4 * 0.5 / draws**0.5)


def test_all_pairs_of_languages_meet_in_one_epoch():
    schedule = language_schedule(dict.fromkeys("abcdef", 100), 2, seed=(0,))
    met = Counter(tuple(languages) for languages in schedule)
    assert set(met) == set(combinations("abcdef", 2))
    assert min(met.values()) > 0.5 * 300 / 15


def test_seeds_differ():
    counts = dict.fromkeys("abcd", 50)
    one, same, other = (list(language_schedule(counts, 2, seed=(seed,))) for seed in (1, 1, 2))
    assert one == same != other

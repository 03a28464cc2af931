"""Plans of a whole run: counts against simulations of their own, bounds, and what a run reads."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from hf_meta_adapters.data.cooldown import Cooldown
from hf_meta_adapters.data.sampling_plan import SamplingPlan
from hf_meta_adapters.data.unimax import UniMax
from hf_meta_adapters.errors import ConfigurationError

from .cases import NAMES, languages, make_sampler, rows

SEEDS = range(30)


def draw(seed: int) -> dict[str, Any]:
    """A run that leaves languages out of its steps."""
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randint(2, len(NAMES)))
    return {
        "sizes": {name: int(10 ** rng.uniform(0.7, 3)) for name in names},
        "languages_per_step": rng.randint(1, len(names) - 1),
        "rows": rng.randint(1, 5),
    }


def counts(plan: SamplingPlan, case: dict[str, Any], **changed: Any) -> list[dict[str, int]]:
    sizes, *_ = case.values()
    given = {name: value for name, value in case.items() if name != "sizes"}
    return plan.parts(sizes, **{"steps_per_epoch": 7, **given, **changed})


def steps_that_fit(case: dict[str, Any], max_epochs: float) -> int:
    """The longest run that the text is enough for, by trying."""
    caps = [int(Fraction(max_epochs) * size / case["rows"]) for size in case["sizes"].values()]
    step = 0
    while sum(min(step + 1, cap) for cap in caps) >= (step + 1) * case["languages_per_step"]:
        step += 1
    return step


def round_robin(total: int, caps: dict[str, int]) -> dict[str, int]:
    """Equal shares under caps: a batch each, round after round, to those that may have more."""
    dealt = dict.fromkeys(caps, 0)
    for name in itertools.cycle(caps):
        if sum(dealt.values()) == total:
            return dealt
        dealt[name] += dealt[name] < caps[name]
    raise AssertionError


def test_unimax_by_hand() -> None:
    # 100 steps of one language and 10 rows. sw: 2 · 30 / 10 = 6 of the equal share of 25;
    # then te: 2 · 140 / 10 = 28 of (100 − 6) / 3 = 31.3; the others share 66.
    sizes = {"en": 9000, "sw": 30, "fr": 1000, "te": 140}
    case = {"sizes": sizes, "languages_per_step": 1, "rows": 10}
    (found,) = counts(UniMax(steps=100, max_epochs=2), case)
    assert found == {"en": 33, "sw": 6, "fr": 33, "te": 28}
    # where the paper's caps are not reached, uniformly
    (found,) = counts(UniMax(steps=8, max_epochs=2), case)
    assert set(found.values()) == {2}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_epochs", [0.5, 1, 3])
def test_unimax_deals_as_in_a_simulation(seed: int, max_epochs: float) -> None:
    case = draw(seed)
    case["sizes"] = {name: size + 10 for name, size in case["sizes"].items()}
    longest = steps_that_fit(case, max_epochs)
    assert longest
    for steps in {1, longest // 3, longest // 2, longest} - {0}:
        caps = {
            name: min(steps, int(Fraction(max_epochs) * size / case["rows"]))
            for name, size in case["sizes"].items()
        }
        (found,) = counts(UniMax(steps=steps, max_epochs=max_epochs), case)
        assert found == round_robin(steps * case["languages_per_step"], caps)
        assert list(found) == list(case["sizes"])
    with pytest.raises(ConfigurationError, match=r"Found text for \d+ batches.*Train for fewer"):
        counts(UniMax(steps=longest + 1, max_epochs=max_epochs), case)


def test_a_decimal_bound_is_taken_as_it_is_written() -> None:
    case = {"sizes": {"en": 100, "sw": 30}, "languages_per_step": 1, "rows": 1}
    (found,) = counts(UniMax(steps=10, max_epochs=0.1), case)
    assert found == {"en": 7, "sw": 3}  # 0.1 · 30 is less than 3 in floating point of some values


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_no_row_is_read_more_often_than_unimax_allows(seed: int, shared: bool, parts: int) -> None:
    case, batch = draw(seed), 2
    per_visit = parts * batch * (2 if shared else 1)
    sizes = {name: size + per_visit for name, size in case["sizes"].items()}
    caps = [2 * (size // per_visit) if shared else 2 * size // per_visit for size in sizes.values()]
    steps = 0
    while sum(min(steps + 1, cap) for cap in caps) >= (steps + 1) * case["languages_per_step"]:
        steps += 1

    samplers = [
        make_sampler(
            train_sizes=sizes,
            meta_sizes="train" if shared else None,
            batch_size=batch,
            languages_per_step=case["languages_per_step"],
            sampling_weights=UniMax(steps=steps, max_epochs=2),
            seed=seed,
            steps_per_epoch=5,
            rank=rank,
            world_size=parts,
        )
        for rank in range(parts)
    ]
    read: Counter[tuple[str, int]] = Counter()
    taken: Counter[str] = Counter()
    together = []
    for epoch in range(-(-steps // 5)):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        together += [list(itertools.chain(*keys)) for keys in zip(*samplers, strict=True)]
    for keys in together[:steps]:
        read.update((name, row) for (_, name), found in rows(keys).items() for row, _ in found)
        names = [key.language for key in keys]
        taken.update(set(names))
    assert max(read.values()) <= 2
    expected = round_robin(
        steps * case["languages_per_step"],
        dict(zip(sizes, (min(steps, cap) for cap in caps), strict=True)),
    )
    assert taken == Counter(expected)
    seen = samplers[0].examples_seen(*divmod(steps, 5))["train"]
    assert seen == {name: expected[name] * batch * parts for name in sizes}


def exact_shares(sizes: dict[str, int], alpha: float, total: float) -> dict[str, float]:
    powers = {name: size**alpha for name, size in sizes.items()}
    return {name: total * power / sum(powers.values()) for name, power in powers.items()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [1, 4, 10, 57, 400])
def test_cooldown_fills_every_part_exactly(seed: int, steps: int) -> None:
    case = draw(seed)
    k, sizes = case["languages_per_step"], case["sizes"]
    found = counts(Cooldown(steps=steps, alpha=0.2, end_alpha=0.9), case)
    parts = min(10, steps)
    assert len(found) == parts
    lengths = [sum(part.values()) // k for part in found]
    assert max(lengths) - min(lengths) <= 1
    assert sum(lengths) == steps
    owed = dict.fromkeys(sizes, 0.0)
    bounded = False
    for number, (part, length) in enumerate(zip(found, lengths, strict=True)):
        assert sum(part.values()) == k * length
        assert all(0 <= count <= length for count in part.values())
        alpha = 0.2 + 0.7 * number / max(parts - 1, 1)
        shares = exact_shares(sizes, alpha, k * length)
        bounded |= max(shares.values()) > length or (number == 0 and min(shares.values()) < 1)
        for name, share in shares.items():
            owed[name] += share - part[name]
        if not bounded:
            assert all(abs(debt) < 1 for debt in owed.values())
    if k * lengths[0] >= len(sizes):
        assert min(found[0].values()) >= 1


def test_cooldown_moves_from_the_first_exponent_to_the_last() -> None:
    case = {"sizes": {"en": 9000, "sw": 1000}, "languages_per_step": 1, "rows": 1}
    found = counts(Cooldown(steps=1000, alpha=0.0, end_alpha=1.0), case)
    assert found[0] == {"en": 50, "sw": 50}
    assert found[-1] == {"en": 90, "sw": 10}
    assert [part["sw"] for part in found] == sorted((part["sw"] for part in found), reverse=True)


def test_cooldown_does_not_lose_a_rare_language() -> None:
    # 0.4 batches in each part, which rounds to none
    case = {"sizes": {"en": 9960, "sw": 40}, "languages_per_step": 1, "rows": 1}
    found = counts(Cooldown(steps=1000, alpha=0.999, end_alpha=1.0), case)
    assert sum(part["sw"] for part in found) == 4


@pytest.mark.parametrize("seed", range(10))
def test_a_run_takes_each_part_of_a_plan_in_turn(seed: int) -> None:
    case = draw(seed)
    plan = Cooldown(epochs=2.5, alpha=0.0, end_alpha=1.0)
    arguments = {
        "train_sizes": case["sizes"],
        "batch_size": 1,
        "languages_per_step": case["languages_per_step"],
        "sampling_weights": plan,
        "steps_per_epoch": 8,
        "seed": seed,
    }
    sampler = make_sampler(**arguments)
    taken = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        taken += [languages(keys) for keys in sampler]
    found = counts(plan, {**case, "rows": 1}, steps_per_epoch=8)
    place = 0
    for part in found:
        length = sum(part.values()) // case["languages_per_step"]
        chosen = Counter(itertools.chain(*taken[place : place + length]))
        assert {name: chosen[name] for name in part} == part
        assert all(len(set(names)) == len(names) for names in taken[place : place + length])
        place += length
    assert place == 20
    # from any position, as where a run is resumed
    other = make_sampler(**arguments)
    other.set_epoch(2)
    assert [languages(keys) for keys in other] == taken[16:]


@pytest.mark.parametrize(
    ("plan", "sizes", "message"),
    [
        (UniMax(steps=5), {"en": 9}, "Found all 1 languages in every step"),
        (Cooldown(steps=5), {"en": 9, "sw": None}, r"Found streams for \['sw'\]"),
        (UniMax(steps=2), {"en": 90, "sw": 3}, r"fewer rows than a single step .*\{'sw': 3\}"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    plan: SamplingPlan, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        counts(plan, {"sizes": sizes, "languages_per_step": 1, "rows": 4})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2"])
def test_unimax_needs_a_bound(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`max_epochs` is .* Found"):
        UniMax(max_epochs=value)

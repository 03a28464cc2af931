"""Meta rows from the training rows: who gets which row, against a simulation of its own."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
import torch

from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.data.key import Key
from hf_meta_adapters.data.overlap import check_distinct
from hf_meta_adapters.data.seeding import stable_seed
from hf_meta_adapters.errors import ConfigurationError, DataError

from .cases import NAMES, languages, make_sampler, rows

SEEDS = range(25)


def draw(seed: int) -> dict[str, Any]:
    """Settings in which every language has the rows of a step, of one part or of four."""
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randint(1, 5))
    train, meta = rng.randint(1, 4), rng.choice([None, 1, 3])
    least = 4 * (train + (meta or train))
    return {
        "train_sizes": {name: rng.randint(least, 3 * least) for name in names},
        "meta_sizes": "train",
        "batch_size": train,
        "meta_batch_size": meta,
        "languages_per_step": rng.choice([None, rng.randint(1, len(names))]),
        "seed": seed,
    }


def steps(arguments: dict[str, Any], epochs: int = 3, **changed: Any) -> list[list[Key]]:
    """The keys of each optimizer step of all parts together."""
    parts = [
        make_sampler(rank=rank, **{"world_size": 1, **arguments, **changed})
        for rank in range(changed.get("world_size", 1))
    ]
    accumulation = changed.get("accumulation_steps", 1)
    found: list[list[Key]] = []
    for epoch in range(epochs):
        for part in parts:
            part.set_epoch(epoch)
        micro_steps = [list(itertools.chain(*lists)) for lists in zip(*parts, strict=True)]
        for start in range(0, len(micro_steps), accumulation):
            found.append(list(itertools.chain(*micro_steps[start : start + accumulation])))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 1), (2, 1), (2, 2)])
def test_rows_are_dealt_as_in_a_simulation(
    seed: int, world_size: int, accumulation_steps: int
) -> None:
    arguments = draw(seed)
    per_part = arguments["batch_size"]
    parts = world_size * accumulation_steps
    train, meta = per_part * parts, (arguments["meta_batch_size"] or per_part) * parts

    hands: dict[str, list[tuple[int, list[int]]]] = {name: [] for name in arguments["train_sizes"]}
    passes: Counter[str] = Counter()
    found = steps(arguments, world_size=world_size, accumulation_steps=accumulation_steps)
    for keys in found:
        dealt = rows(keys)
        assert {name for _, name in dealt} == set(languages(keys))
        for name in {name for _, name in dealt}:
            if not hands[name]:  # shuffle, and deal what makes whole steps
                size, number = arguments["train_sizes"][name], passes[name]
                shuffle = torch.Generator().manual_seed(stable_seed(seed, "train", name, number))
                deck = torch.randperm(size, generator=shuffle).tolist()
                while len(deck) >= train + meta:
                    hands[name].append((number, deck[: train + meta]))
                    del deck[: train + meta]
                passes[name] += 1
            number, hand = hands[name].pop(0)
            assert dealt["train", name] == sorted((row, number) for row in hand[:train])
            assert dealt["meta", name] == sorted((row, number) for row in hand[train:])
    assert max(passes.values()) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_pass_a_row_has_one_role_at_most(seed: int) -> None:
    arguments = draw(seed)
    used: dict[tuple[str, int], Counter[int]] = {}
    roles: dict[tuple[str, int], Counter[str]] = {}
    for keys in steps(arguments, 6, world_size=2):
        for key in keys:
            used.setdefault((key.language, key.visit), Counter())[key.index] += 1
            roles.setdefault((key.language, key.visit), Counter())[key.role] += 1

    assert all(set(counts.values()) == {1} for counts in used.values())
    train = 2 * arguments["batch_size"]
    meta = 2 * (arguments["meta_batch_size"] or arguments["batch_size"])
    for (name, number), counts in roles.items():
        whole = arguments["train_sizes"][name] // (train + meta)
        if (name, number + 1) in roles:  # else the run ended in it
            assert counts == {"train": whole * train, "meta": whole * meta}


def test_over_many_passes_every_row_has_either_role_equally_often() -> None:
    sampler = LanguageBatchSampler(
        {"sw": 11}, "train", batch_size=2, meta_batch_size=3, steps_per_epoch=2 * 2000
    )
    counts = {"train": Counter(), "meta": Counter()}
    for keys in sampler:
        for key in keys:
            counts[key.role][key.index] += 1
    for role, batch in (("train", 2), ("meta", 3)):
        # 2000 passes of two steps: the mean is 2000 · 2 · batch / 11, and this is 5 deviations.
        share = 2 * batch / 11
        allowed = 5 * (2000 * share * (1 - share)) ** 0.5
        assert len(counts[role]) == 11
        assert all(abs(count - 2000 * share) < allowed for count in counts[role].values())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_goes_on_in_the_middle_of_a_pass(seed: int) -> None:
    arguments = draw(seed)
    whole = steps(arguments, 4)
    again = make_sampler(**arguments)
    per_epoch = len(again)
    for position in range(0, len(whole), 3):
        epoch, step = divmod(position, per_epoch)
        again.set_epoch(epoch)
        assert list(again)[step:] == whole[position : (epoch + 1) * per_epoch]
        seen = again.examples_seen(epoch, step)
        for role in ("train", "meta"):
            read = Counter(
                key.language for keys in whole[:position] for key in keys if key.role == role
            )
            assert {name: count for name, count in seen[role].items() if count} == read


def test_an_epoch_shows_every_row_once_in_either_role() -> None:
    sizes = {"sw": 30, "te": 10}
    sampler = LanguageBatchSampler(sizes, "train", batch_size=3, meta_batch_size=1)
    assert len(sampler) == (30 + 10) // (2 * (3 + 1))


@pytest.mark.parametrize(
    ("sizes", "given", "kind", "message"),
    [
        ({"sw": 7, "te": 20}, {}, DataError, r"4 training rows and 4 meta rows.*Found {'sw': 7}"),
        ({"sw": 4}, {"meta_batch_size": 1}, DataError, "Lower `per_device_train_batch_size`"),
        ({"sw": None}, {"steps_per_epoch": 3}, DataError, r"streaming training data of \['sw'\]"),
        (
            {"sw": 9, "te": 9},
            {"meta_in_every_step": True, "languages_per_step": 1},
            ConfigurationError,
            '`languages_per_step`.*`meta_languages="all"`',
        ),
    ],
)
def test_what_cannot_work_is_refused(
    sizes: dict[str, int | None], given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        LanguageBatchSampler(sizes, "train", batch_size=4, **given)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_other_languages_train_as_without_meta_rows(parts: int) -> None:
    """Of `en` all rows are for training; only those of the named languages are dealt."""
    sizes = {"en": 11, "sw": 10, "te": 9}
    given = {"train_sizes": sizes, "batch_size": 2, "meta_batch_size": 1, "seed": 3}
    named = {**given, "meta_sizes": ("sw", "te"), "meta_in_every_step": True}
    changed = {"epochs": 6, "world_size": parts}
    found = steps(named, **changed, steps_per_epoch=4)
    shared = steps({**given, "meta_sizes": "train"}, **changed, steps_per_epoch=4)
    alone = steps(given, **changed, steps_per_epoch=4)
    for step, keys in enumerate(found):
        dealt = rows(keys)
        assert dealt["train", "en"] == rows(alone[step])["train", "en"]
        assert ("meta", "en") not in dealt
        for role in ("train", "meta"):
            for name in ("sw", "te"):
                assert dealt[role, name] == rows(shared[step])[role, name]
    sampler = LanguageBatchSampler(**named)
    assert len(sampler) == 4  # 30 rows, of which a step shows 2 + 3 + 3
    assert sampler.examples_seen(1, 1)["meta"] == {"sw": 5, "te": 5}


def test_a_named_language_without_training_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"meta data of \['te'\]"):
        LanguageBatchSampler({"sw": 9}, ("te",), meta_in_every_step=True, batch_size=2)


def test_copies_of_a_row_are_refused() -> None:
    check_distinct({"sw": ["moja", "mbili"], "te": ["moja"]})
    with pytest.raises(DataError, match=r"2 rows of 'sw'.*in row 1, equal to row 0.*no `meta_data"):
        check_distinct({"sw": ["moja", "moja", "mbili", "mbili"]})

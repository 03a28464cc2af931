"""Settings of the sampler, drawn at random, in which every property must hold."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.data.key import Key
from hf_meta_adapters.data.step_partition import StepPartition

NAMES = [
    "te",
    "da",
    "in",
    "pt",
    "li",
    "zh-Hant",
    "en",
    "fr",
    "ru",
    "sw",
]  # some are parts of other words
SEEDS = range(40)
Rows = dict[tuple[str, str], list[tuple[int, int]]]


def draw(seed: int, **fixed: Any) -> dict[str, Any]:
    """Arguments of a sampler: 1 to 10 languages of 1 to 60 rows, some epochs too short for all of
    them.
    """
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randint(1, len(NAMES)))
    arguments = {
        "train_sizes": {name: rng.randint(1, 60) for name in names},
        "meta_sizes": rng.choice([None, {name: rng.randint(1, 9) for name in names}]),
        "batch_size": rng.randint(1, 5),
        "meta_batch_size": rng.choice([None, 1, 3]),
        "languages_per_step": rng.choice([None, rng.randint(1, len(names))]),
        "alpha": rng.choice([0, 0.3, 1]),
        "seed": seed,
        "steps_per_epoch": rng.choice([None, rng.randint(1, 12)]),
    }
    return {**arguments, **fixed}


def make_sampler(
    *, rank: int = 0, world_size: int = 1, accumulation_steps: int = 1, **arguments: Any
) -> LanguageBatchSampler:
    """A sampler, with the parts of its `partition` by name."""
    partition = StepPartition(rank, world_size, accumulation_steps)
    return LanguageBatchSampler(**arguments, partition=partition)


def run(arguments: dict[str, Any], epochs: int = 3, **changed: Any) -> list[list[Key]]:
    """Every list of the first epochs."""
    sampler = make_sampler(**{**arguments, **changed})
    lists = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        lists += list(sampler)
    return lists


def rows(keys: list[Key]) -> Rows:
    """role and language → rows with their visits, sorted."""
    found: Rows = defaultdict(list)
    for key in keys:
        found[key.role, key.language].append((key.index, key.visit))
    return {place: sorted(several) for place, several in found.items()}


def languages(keys: list[Key], role: str = "train") -> list[str]:
    """The languages of a list, in order, each once for every uninterrupted run of its keys."""
    own = [key.language for key in keys if key.role == role]
    return [name for place, name in enumerate(own) if place == 0 or own[place - 1] != name]

"""Rows grouped by length: every row once in a pass, and rows of one length in a step."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hf_meta_adapters.data._length_groups import LengthGroups
from hf_meta_adapters.data._row_stream import RowStream
from hf_meta_adapters.data.row_lengths import row_lengths
from hf_meta_adapters.errors import ConfigurationError

from .cases import SEEDS, draw, make_sampler, rows, run


def stream(lengths, size, seed=0):
    return RowStream(len(lengths), ("te", seed), groups=LengthGroups(np.array(lengths), size))


def padding(lengths, found, size):
    """The share of places that are padding where every `size` rows are a batch."""
    batches = np.array([lengths[row] for row, _ in found]).reshape(-1, size)
    return 1 - batches.sum() / (batches.max(axis=1).sum() * size)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_pass_holds_every_row_once(seed):
    chance = random.Random(seed)
    count, size = chance.randint(1, 300), chance.randint(1, 9)
    lengths = [chance.randint(1, 40) for _ in range(count)]
    found = stream(lengths, size, seed).rows(range(4 * count))
    for number in range(4):
        part = found[number * count : (number + 1) * count]
        assert sorted(part) == [(row, number) for row in range(count)]


def test_steps_hold_rows_of_like_length_in_every_pass():
    chance = random.Random(0)
    lengths = [chance.randint(5, 50) for _ in range(803)]  # no multiple of a step
    grouped, by_chance = stream(lengths, 8), RowStream(803, ("te", 0))
    for number in range(3):
        places = range(-(-803 * number // 8) * 8, 803 * (number + 1) // 8 * 8)
        before = padding(lengths, by_chance.rows(places), 8)
        after = padding(lengths, grouped.rows(places), 8)
        assert before > 0.35
        assert after < 0.1, number


def test_passes_bring_other_rows_together():
    lengths = [5] * 64
    found = stream(lengths, 8).rows(range(128))
    groups = [{row for row, _ in found[start : start + 8]} for start in range(0, 128, 8)]
    assert not any(one in groups[8:] for one in groups[:8])


def test_steps_of_one_pass_are_not_sorted():
    lengths = list(range(64))
    firsts = [lengths[row] for row, _ in stream(lengths, 4).rows(range(0, 64, 4))]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_row_comes_first(seed):
    lengths = [5] * 99
    lengths[40] = 500
    first = stream(lengths, 4, seed).rows(range(4))
    assert (40, 0) in first


def with_lengths(arguments):
    """The settings with lengths for all rows; streams have none."""
    sizes = {"train": arguments["train_sizes"], "meta": arguments["meta_sizes"] or {}}
    chance = random.Random(1)
    lengths = {
        role: {
            key: np.array([chance.randint(1, 30) for _ in range(size)])
            for key, size in by_language.items()
        }
        for role, by_language in sizes.items()
    }
    return {**arguments, "shuffle": lengths}


@pytest.mark.parametrize("seed", range(10))
def test_a_step_holds_the_same_rows_however_it_is_divided(seed):
    arguments = with_lengths(draw(seed, batch_size=4, meta_batch_size=4, steps_per_epoch=9))
    whole = [rows(keys) for keys in run(arguments)]
    halves = {**arguments, "batch_size": 2, "meta_batch_size": 2}

    micro = run(halves, accumulation_steps=2)
    joined = [rows([*one, *other]) for one, other in zip(micro[::2], micro[1::2], strict=True)]
    assert joined == whole

    ranks = [run(halves, world_size=2, rank=rank) for rank in (0, 1)]
    assert [rows([*one, *other]) for one, other in zip(*ranks, strict=True)] == whole


def test_lengths_are_needed_of_every_row():
    lengths = row_lengths(
        {"train": {"te": [{"input_ids": [5]}]}}, column="length", tokens="input_ids"
    )
    with pytest.raises(ConfigurationError, match=r"Found 1 for the 2 train rows of 'te'"):
        make_sampler(train_sizes={"te": 2}, batch_size=1, shuffle=lengths)

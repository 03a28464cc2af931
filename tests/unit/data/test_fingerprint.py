"""Fingerprints of data: every change of a row shows, and nothing else does."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import Subset

from hf_meta_adapters.data import fingerprint as module
from hf_meta_adapters.data.fingerprint import MOST_ROWS, MOST_STREAMED, fingerprint
from tests.training import rows

ROWS = rows(3, count=12)


def edited(number, column, place, value):
    changed = copy.deepcopy(ROWS)
    changed[number][column][place] = value
    return changed


CHANGES = {
    "one token": edited(7, "input_ids", 2, 3),
    "one label": edited(0, "labels", 5, 60),
    "one mask": edited(11, "attention_mask", 0, 0),
    "the order": ROWS[::-1],
    "two rows exchanged": [ROWS[1], ROWS[0], *ROWS[2:]],
    "a row fewer": ROWS[:-1],
    "a row twice": [*ROWS, ROWS[-1]],
    "a column more": [{**row, "token_type_ids": [0] * 6} for row in ROWS],
    "another name of a column": [
        {"words" if name == "input_ids" else name: value for name, value in row.items()}
        for row in ROWS
    ],
}

CONTAINERS = {
    "list": list,
    "table": Dataset.from_list,
    "table that was indexed": lambda several: Dataset.from_list(several[::-1]).select(
        range(len(several) - 1, -1, -1)
    ),
    "table of tensors": lambda several: Dataset.from_list(several).with_format("torch"),
    "subset": lambda several: Subset([None, *several], range(1, len(several) + 1)),
    "tensors": lambda several: [
        {name: torch.tensor(value) for name, value in row.items()} for row in several
    ],
    "stream": lambda several: IterableDataset.from_generator(lambda: iter(several)),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows(container, change):
    make = CONTAINERS[container]
    assert fingerprint(make(ROWS)) == fingerprint(make(copy.deepcopy(ROWS)))
    assert fingerprint(make(CHANGES[change])) != fingerprint(make(ROWS))


def test_the_container_does_not_show():
    assert (
        len({fingerprint(CONTAINERS[name](ROWS)) for name in CONTAINERS if name != "stream"}) == 1
    )


def test_it_is_a_hash_of_the_texts_of_the_rows():
    """Of nothing, that is, that is another in another process."""
    total = hashlib.blake2b(digest_size=8)
    for row in ROWS:
        text = json.dumps(row, sort_keys=True).encode()
        total.update(hashlib.blake2b(text, digest_size=16).digest())
    assert fingerprint(ROWS) == total.hexdigest()


def test_long_data_are_read_in_part(monkeypatch):
    class Long:
        changed = -1

        def __init__(self):
            self.read = []

        def __len__(self):
            return 3 * MOST_ROWS

        def __getitem__(self, row):
            self.read.append(row)
            return [row, row == self.changed]

    one = Long()
    before = fingerprint(one)
    assert len(one.read) == MOST_ROWS + 1  # the first one is read for its length, too
    assert len(set(one.read)) == MOST_ROWS
    assert {0, 3 * MOST_ROWS - 1} <= set(one.read)
    gaps = np.diff(sorted(set(one.read)))
    assert set(gaps) <= {3, 4}

    one.changed = one.read[5000]
    assert fingerprint(one) != before

    one.read.clear()
    monkeypatch.setattr(module, "MOST_BYTES", 200 * len("[0, false]"))
    fingerprint(one)
    assert len(set(one.read)) == 200
    one.read.clear()
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    fingerprint(one)
    assert len(set(one.read)) == 100


def test_a_stream_is_read_from_its_beginning():
    def endless(changed):
        def generate():
            number = 0
            while True:
                yield {"input_ids": [number, int(number == changed)]}
                number += 1

        return IterableDataset.from_generator(generate)

    assert fingerprint(endless(MOST_STREAMED - 1)) != fingerprint(endless(-1))
    assert fingerprint(endless(MOST_STREAMED)) == fingerprint(endless(-1))


class Augmented:
    """Rows in which a token is drawn anew each time they are read."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 6

    def __getitem__(self, row):
        return {"input_ids": [row, self.draw()]}


def test_random_numbers_of_a_row_are_seeded_and_leave_no_trace():
    for draw in (lambda: int(torch.randint(9999, ())), lambda: int(np.random.randint(9999))):
        states = torch.get_rng_state(), np.random.get_state()[1]
        assert fingerprint(Augmented(draw)) == fingerprint(Augmented(draw))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])


def test_a_generator_of_its_own_shows_when_it_is_read_twice():
    generator = np.random.default_rng(0)
    one = Augmented(lambda: int(generator.integers(9999)))
    assert fingerprint(one) != fingerprint(one)


class Broken:
    def __len__(self):
        return 2

    def __getitem__(self, row):
        raise OSError("gone")


@pytest.mark.parametrize("dataset", [Broken(), [object()], [{"picture": object()}], iter([1])])
def test_what_cannot_be_compared_has_none(dataset):
    assert fingerprint(dataset) is None

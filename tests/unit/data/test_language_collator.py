"""Batches of a step, and the random numbers that making them takes."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from hf_meta_adapters.data import LanguageCollator
from hf_meta_adapters.data.key import Key
from hf_meta_adapters.data.seeding import seeded

DRAWS = {
    "torch": lambda: torch.rand(3).tolist(),
    "numpy": lambda: np.random.rand(3).tolist(),
    "python": lambda: [random.random() for _ in range(3)],
}


def keyed(role, language, rows, visit=0):
    return [(Key(role, language, row, visit), f"{language} {row}") for row in rows]


def test_each_batch_holds_the_examples_of_one_role_and_language_in_order():
    calls = []

    def collate(examples):
        calls.append(examples)
        return {"examples": examples}

    step = keyed("train", "te", [4, 2]) + keyed("train", "da", [2]) + keyed("meta", "te", [7])
    found = LanguageCollator(collate)(step + keyed("train", "te", [9]))
    assert calls == [["te 4", "te 2", "te 9"], ["da 2"], ["te 7"]]
    assert {role: list(several) for role, several in found.items()} == {
        "train": ["te", "da"],
        "meta": ["te"],
    }
    assert found["train"]["te"] == {"examples": calls[0]}
    assert list(LanguageCollator(collate)(keyed("train", "te", [1]))) == ["train"]


@pytest.mark.parametrize("library", DRAWS)
def test_draws_are_a_function_of_the_keys_and_the_seed(library):
    def collated(keys, seed=0):
        return LanguageCollator(lambda _: DRAWS[library](), seed)(keys)[keys[0][0].role][
            keys[0][0].language
        ]

    base = collated(keyed("train", "te", [1, 2]))
    DRAWS[library]()
    assert collated(keyed("train", "te", [1, 2])) == base
    others = [
        collated(keyed("train", "te", [1, 3])),
        collated(keyed("train", "da", [1, 2])),
        collated(keyed("meta", "te", [1, 2])),
        collated(keyed("train", "te", [1, 2], visit=1)),
        collated(keyed("train", "te", [1, 2]), seed=1),
    ]
    assert len({tuple(draw) for draw in [base, *others]}) == 6


@pytest.mark.parametrize("library", DRAWS)
@pytest.mark.parametrize("fails", [True, False])
def test_the_random_state_outside_is_untouched(library, fails):
    def enter():
        with seeded(3):
            for draw in DRAWS.values():
                draw()
            assert not fails

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [DRAWS[library]() for _ in range(2)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    found = [DRAWS[library]()]
    if fails:
        with pytest.raises(AssertionError):
            enter()
    else:
        enter()
    assert [*found, DRAWS[library]()] == expected


def test_accelerators_are_not_reseeded(monkeypatch):
    def refuse(seed):
        raise RuntimeError("the dropout masks of training would begin again")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with seeded(3):
        torch.rand(1)


@pytest.mark.gpu
def test_the_random_state_of_the_gpu_is_untouched():
    state = torch.cuda.get_rng_state()
    with seeded(3):
        torch.rand(1)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_it_can_be_sent_to_workers():
    step = keyed("train", "te", [1])
    copy = pickle.loads(pickle.dumps(LanguageCollator(list, 5)))
    assert copy(step) == LanguageCollator(list, 5)(step) == {"train": {"te": ["te 1"]}}

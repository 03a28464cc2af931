"""The rows of a study that are trained in halves, or in one language after the other."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import TrainerCallback

from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study.methods import METHODS, Pretrained, pretrain

pytestmark = pytest.mark.slow

TEXTS = {
    "en": [f"the word {number} was with the light {number % 7}" for number in range(40)],
    "sw": [f"neno {number} alikuwako na nuru {number % 5}" for number in range(30)],
    "fr": [f"la parole {number} était avec la lumière {number % 3}" for number in range(20)],
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    lines = [line for several in TEXTS.values() for line in several]
    return train_tokenizer(lines, vocabulary=120, max_length=16)


class Runs(TrainerCallback):
    """The steps of each run."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_end(self, args, state, control, **_) -> None:
        self.steps.append(state.global_step)


def trained(method: str, tokenizer, steps: int = 12, **training) -> tuple[Pretrained, Runs]:
    runs = Runs()
    given = {"learning_rate": 5e-3, "per_device_train_batch_size": 2, "languages_per_step": 2}
    found = pretrain(
        method, TEXTS, tokenizer, model_type="xlm-roberta", sizes=SIZES, steps=steps, seed=3,
        callbacks=[runs], use_cpu=True, **{**given, **training},
    )  # fmt: skip
    return found, runs


def test_experts_see_what_joint_training_sees_and_are_merged(tokenizer) -> None:
    joint, _ = trained("joint", tokenizer)
    found, runs = trained("merged_linear", tokenizer)
    assert found.examples == joint.examples
    assert found.size_in_bytes == joint.size_in_bytes

    # the joint half, and then each language alone
    assert (runs.steps[0], len(runs.steps)) == (6, 4)
    assert 2 * sum(runs.steps[1:]) + 4 * runs.steps[0] == sum(found.examples.values())
    record = found.model.merged_from
    assert [entry["languages"] for entry in record["families"]] == [["en"], ["sw"], ["fr"]]

    other, _ = trained("merged_ties", tokenizer)
    assert other.model.merged_from["method"] == "ties"
    pairs = zip(found.model.parameters(), other.model.parameters(), strict=True)
    assert any(not torch.equal(one, two) for one, two in pairs)


def test_sequential_reptile_takes_steps_in_one_language(tokenizer) -> None:
    joint, _ = trained("joint", tokenizer)
    found, runs = trained("sequential_reptile", tokenizer, reptile_steps=4)
    assert runs.steps == [24]
    assert sum(found.examples.values()) == sum(joint.examples.values())

    every, runs = trained("sequential_reptile", tokenizer, languages_per_step=None)
    assert runs.steps == [36]
    assert sum(every.examples.values()) == 12 * 3 * 2


def test_copies_are_put_into_the_layer_that_the_plan_names(tokenizer) -> None:
    found, runs = trained("planned_copies", tokenizer)
    joint, _ = trained("joint", tokenizer)
    assert runs.steps == [6, 6]
    assert found.examples == joint.examples
    for language in TEXTS:
        names = list(found.model.language_parameters(language))
        layers = {re.search(r"layer\.(\d)", name)[1] for name in names}
        assert len(layers) == 1
        assert not any("attention" in name for name in names)


def test_the_rows_of_the_table_are_named() -> None:
    halves = {name: method.second_half for name, method in METHODS.items() if method.second_half}
    assert halves == {"merged_linear": "linear", "merged_ties": "ties", "planned_copies": "plan"}

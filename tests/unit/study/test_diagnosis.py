"""The text of a diagnosis: files of two kinds, a choice by the seed, batches with labels."""

import gzip

import pytest
import torch

from hf_meta_adapters.study.diagnosis import make_batches, read_text_files
from tests.docs.conftest import tokenizer

LINES = [f"Hapo mwanzo {number}" for number in range(20)]
SIZES = {"batches": 4, "batch_size": 8, "max_length": 16}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "en.txt").write_text("\n\n".join(LINES), encoding="utf-8")
    (tmp_path / "sw.txt.gz").write_bytes(gzip.compress("\r\n".join(LINES[:9]).encode()))
    return tmp_path


def test_every_line_is_read_once_in_random_order(folder):
    texts = read_text_files(folder)
    assert list(texts) == ["en", "sw"]
    assert sorted(texts["en"]) == sorted(LINES)
    assert sorted(texts["sw"]) == sorted(LINES[:9])
    assert texts["en"] != LINES


def test_the_choice_depends_on_the_seed_and_not_on_other_languages(folder):
    first = read_text_files(folder, limit=5)
    assert [len(lines) for lines in first.values()] == [5, 5]
    assert read_text_files(folder, limit=5, seed=1) != first

    (folder / "en.txt").unlink()
    assert read_text_files(folder, limit=5)["sw"] == first["sw"]


def test_a_language_with_little_text_has_smaller_batches_not_fewer():
    batches = make_batches({"en": LINES * 2, "sw": LINES[:9]}, tokenizer(), masked=True, **SIZES)
    assert [len(batch["input_ids"]) for batch in batches["en"]] == [8] * 5
    assert [len(batch["input_ids"]) for batch in batches["sw"]] == [2] * 4


@pytest.mark.parametrize("masked", [True, False])
def test_the_labels_are_those_of_the_task(masked):
    (batch, *_) = make_batches({"sw": LINES}, tokenizer(), masked=masked, **SIZES)["sw"]
    predicted = batch["labels"] != -100
    if masked:
        assert 0 < predicted.sum() < batch["attention_mask"].sum()
    else:
        assert torch.equal(predicted, batch["attention_mask"].bool())

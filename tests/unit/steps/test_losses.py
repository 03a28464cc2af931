"""Errors of transformers that have no type of their own, and counts of labels."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from hf_meta_adapters.errors import DataError
from hf_meta_adapters.steps.losses import NO_LOSS, explained_loss, label_count, micro_batches
from tests.adapted import adapted
from tests.tiny import tiny

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


def without_loss(tmp_path):
    """Have transformers itself look for a loss in the outputs of a model that computes none."""
    model = BertModel(BertConfig(intermediate_size=8, **SIZES))
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    return trainer.compute_loss(model, {"input_ids": torch.tensor([[1, 2, 3]])})


def test_transformers_still_says_it_in_these_words(tmp_path):
    with pytest.raises(ValueError, match=NO_LOSS):
        without_loss(tmp_path)


def test_its_error_is_explained(tmp_path):
    with (
        pytest.raises(DataError, match=r"computed from, \['labels'\]. Found \['input_ids'\]"),
        explained_loss({"input_ids": None}, ["labels"]),
    ):
        without_loss(tmp_path)


def test_other_errors_are_not():
    with (
        pytest.raises(ValueError, match="something else") as caught,
        explained_loss({}, ["labels"]),
    ):
        raise ValueError("something else")
    assert not isinstance(caught.value, DataError)


def test_one_batch_and_several_are_a_list():
    batch = {"labels": torch.zeros(1)}
    assert micro_batches(batch) == [batch]
    assert micro_batches((batch, batch)) == [batch, batch]


@pytest.mark.parametrize(("name", "expected"), [("bert", 3), ("llama", 2)])
def test_ignored_labels_do_not_count_nor_the_first_where_labels_are_shifted(name, expected):
    model = adapted(name, None, ["en"])
    labels = torch.tensor([[5, 6, -100], [-100, -100, 7]])
    assert label_count(model, {"labels": labels}) == expected


def test_without_labels_the_rows_count():
    batch = tiny("bert", "question_answering").batch(0, rows=4)
    assert "labels" not in batch
    assert label_count(adapted(tiny("bert", "question_answering"), None, ["en"]), batch) == 4

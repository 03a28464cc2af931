"""`train_sampling_strategy`, and `group_by_length` of transformers 4: the order of the rows."""

from __future__ import annotations

from dataclasses import fields

import datasets
import pytest
import torch
from transformers import TrainingArguments

from hf_meta_adapters.errors import DataError
from tests.training import LANGUAGES, make_model, make_tokenizer, make_trainer, masking

NAMES = {field.name for field in fields(TrainingArguments)}
GROUPED = {"group_by_length": True}
if "train_sampling_strategy" in NAMES:
    GROUPED = {"train_sampling_strategy": "group_by_length"}


def unequal(seed, count=64, **columns):
    """Rows of 2 to 17 tokens, the same lengths in every language, in an order of its own."""
    data = {}
    for number, key in enumerate(LANGUAGES):
        chance = torch.Generator().manual_seed(10 * seed + number)
        lengths = (2 + torch.randperm(count, generator=chance) % 16).tolist()
        words = [torch.randint(4, 60, (length,), generator=chance).tolist() for length in lengths]
        rows = {name: [value(length) for length in lengths] for name, value in columns.items()}
        data[key] = datasets.Dataset.from_dict({"input_ids": words, **rows})
    return data


def loader(folder, train, meta=None, **given):
    trainer = make_trainer(
        folder,
        make_model(),
        train_dataset=train,
        meta_dataset=meta or unequal(2),
        data_collator=masking(),
        processing_class=make_tokenizer(),
        **{"per_device_train_batch_size": 4, **given},
    )
    return trainer.get_train_dataloader()


def padding(steps, role):
    """The share of places that are padding, over all languages."""
    masks = [batch["attention_mask"] for step in steps for batch in step[role].values()]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def test_grouping_saves_padding_of_every_role_and_language(tmp_path):
    by_chance = list(loader(tmp_path, unequal(1)))
    grouped = list(loader(tmp_path, unequal(1), **GROUPED))
    assert len(by_chance) == len(grouped)

    for role in ("train", "meta"):
        assert padding(by_chance, role) > 0.3
        assert padding(grouped, role) < 0.5 * padding(by_chance, role)


def test_a_column_says_the_lengths(tmp_path):
    # the shortest rows are said to be the longest, and the longest one comes first
    train = unequal(1, words=lambda length: 100 - length)
    first = next(iter(loader(tmp_path, train, length_column_name="words", **GROUPED)))
    for batch in first["train"].values():
        assert batch["attention_mask"].sum(1).min() == 2


def test_rows_without_lengths_are_refused_before_training(tmp_path):
    train = {key: [{"number": row} for row in range(20)] for key in LANGUAGES}
    with pytest.raises(
        DataError, match=r"must have `input_ids`, or their length .*Found \['number"
    ):
        loader(tmp_path, train, **GROUPED)


@pytest.mark.skipif("train_sampling_strategy" not in NAMES, reason="of transformers 5")
def test_rows_come_in_their_order_where_asked_for(tmp_path):
    train = unequal(1)
    for step in list(loader(tmp_path, train, train_sampling_strategy="sequential"))[:1]:
        for key, batch in step["train"].items():
            lengths = [len(words) for words in train[key][:4]["input_ids"]]
            assert batch["attention_mask"].sum(1).tolist() == lengths


def test_evaluation_keeps_the_order_of_the_rows(tmp_path):
    rows = unequal(3, count=16)
    trainer = make_trainer(
        tmp_path, make_model(), data_collator=masking(), eval_dataset=rows, **GROUPED
    )
    for key in LANGUAGES:
        masks = [batch["attention_mask"].sum(1) for batch in trainer.get_eval_dataloader(key)]
        assert torch.cat(masks).tolist() == [len(words) for words in rows[key]["input_ids"]]

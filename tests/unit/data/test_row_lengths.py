"""The lengths of rows, from every kind of dataset."""

from __future__ import annotations

import datasets
import pytest
import torch
from torch.utils.data import Subset

from hf_meta_adapters.data.row_lengths import row_lengths
from hf_meta_adapters.errors import DataError

ROWS = [{"input_ids": list(range(count))} for count in (3, 1, 4, 1, 5)]
TABLE = datasets.Dataset.from_list(ROWS)
COUNTS = [3, 1, 4, 1, 5]


def lengths(dataset, column="length"):
    found = row_lengths({"meta": {"sw": dataset}}, column=column, tokens="input_ids")
    return found["meta"]["sw"].tolist()


def tokenized_as_read(batch):
    return {"input_ids": [torch.arange(count) for count in batch["count"]]}


KINDS = {
    "a list": ROWS,
    "a part of a list": Subset(ROWS, range(5)),
    "tensors": [{"input_ids": torch.arange(count)} for count in COUNTS],
    "a Dataset": TABLE,
    "tensors of a Dataset": TABLE.with_format("torch"),
    "chosen rows": datasets.Dataset.from_list([*ROWS, *ROWS[::-1]]).select([0, 1, 2, 3, 4]),
    "a Dataset that tokenizes": datasets.Dataset.from_dict({"count": COUNTS}).with_transform(
        tokenized_as_read
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted(kind):
    assert lengths(KINDS[kind]) == COUNTS


@pytest.mark.parametrize("make", [datasets.Dataset.from_list, list], ids=["Dataset", "list"])
def test_a_column_of_lengths_comes_first(make):
    dataset = make([{**row, "words": 9} for row in ROWS])
    assert lengths(dataset, "words") == [9] * 5
    assert lengths(dataset) == COUNTS


def test_tokens_of_a_table_are_not_read(monkeypatch):
    monkeypatch.setattr(datasets.Dataset, "__getitem__", None)
    assert lengths(TABLE) == COUNTS


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TABLE.to_iterable_dataset(), r"Found the stream `IterableDataset` as the meta data of"),
        ([{"text": "moja"}], r"must have `input_ids`, .* `length`\. Found \['text'\] in the meta"),
        (TABLE.rename_column("input_ids", "ids"), r"Found \['ids'\] in the meta rows of 'sw'"),
        (["moja"], "Found str in the meta rows of 'sw'"),
        (datasets.Dataset.from_list([{"length": 0.5}]), "Found `length` of type double with 0"),
        (datasets.Dataset.from_dict({"length": [1, None]}), "of type int64 with 1 empty entries"),
    ],
    ids=["stream", "text", "other name", "strings", "fractions", "gaps"],
)
def test_rows_without_a_length_are_refused_by_name(dataset, message):
    with pytest.raises(DataError, match=message):
        lengths(dataset)

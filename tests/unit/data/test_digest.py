"""Rows are equal if their contents are."""

from __future__ import annotations

import datetime
from collections import UserDict

import numpy as np
import pytest
import torch

from hf_meta_adapters.data._digest import digest
from hf_meta_adapters.errors import DataError

IDS = [101, 7, 102]
EQUAL = [
    [
        IDS,
        tuple(IDS),
        np.array(IDS),
        torch.tensor(IDS, dtype=torch.int32),
        [np.int64(i) for i in IDS],
    ],
    [
        {"text": "a", "label": 1},
        {"label": np.int64(1), "text": "a"},
        UserDict(text="a", label=torch.tensor(1)),
    ],
    [{"text": "a"}, {"text": "a", "label": None}],
    [{"input_ids": IDS, "labels": [1, 2, 3]}, {"input_ids": np.array(IDS), "id": "x"}],
    [{"x": {"b": [0.5], "a": "é"}}, {"x": UserDict(a="é", b=np.array([0.5]))}],
]
DIFFERENT = [
    "ab", "a b", "", ["ab"], ["a", "b"], [["a"], "b"], [["a", "b"]], [1, 2], [12], [[1], 2],
    {"text": "ab"}, {"title": "ab"}, {"text": "a", "title": "b"}, {"input_ids": [1, 2]},
    {"input_ids": [1, 2, 0]}, b"ab", "1", 1, 1.5, True, datetime.date(2020, 1, 1), {"text": b"ab"},
    "\ud800", "é", "e\u0301",
]  # fmt: skip


@pytest.mark.parametrize("rows", EQUAL, ids=range(len(EQUAL)))
def test_containers_do_not_matter(rows):
    assert len({digest(row) for row in rows}) == 1


def test_contents_do():
    found = {digest(row): row for row in DIFFERENT}
    assert [row for row in DIFFERENT if found[digest(row)] is not row] == []


def test_columns_choose_what_counts():
    one, other = {"id": 1, "text": "a", "input_ids": [1]}, {"id": 2, "text": "a", "input_ids": [2]}
    assert digest(one) != digest(other)
    assert digest(one, ["text"]) == digest(other, ["text"])
    with pytest.raises(
        DataError, match=r"columns \['context'\]\. Found a row of \['id', 'text', 'input_ids'\]"
    ):
        digest(one, ["context"])


def test_values_without_content_are_refused():
    with pytest.raises(DataError, match=r"type `object`.*columns"):
        digest({"text": "a", "image": object()})

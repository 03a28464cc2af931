"""Somebody has decided, of every argument, what may become of it where a run is resumed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.training._resumed_arguments import (
    CLASSES,
    plain,
    recorded_arguments,
)
from tests.unit.training.inherited_arguments import ARGUMENTS

FIELDS = {field.name for field in dataclasses.fields(MetaAdapterTrainingArguments)}


def test_every_argument_is_in_one_class():
    counts = Counter(name for names in CLASSES.values() for name in names)
    undecided = sorted(FIELDS - set(counts))
    assert not undecided, (
        f"Nobody has decided what becomes of {undecided} where a run is resumed. Find out whether a"
        " run with another value computes something else, and add each of them to a class in"
        " `hf_meta_adapters/training/_resumed_arguments.py`."
    )
    assert [name for name, count in counts.items() if count > 1] == []

    # of the other lane, or misspelt
    own = {field.name for field in dataclasses.fields(MetaAdapterTrainingArguments)}
    assert sorted(set(counts) - own - set(ARGUMENTS)) == []


def test_what_is_recorded_is_json(tmp_path):
    args = MetaAdapterTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", lr_scheduler_type="cosine"
    )
    found = recorded_arguments(vars(args))
    assert json.loads(json.dumps(found)) == found
    assert found["lr_scheduler_type"] == "cosine"
    assert found["learning_rate"] == 5e-5
    assert "output_dir" not in found


def test_a_plain_value_does_not_depend_on_the_order_of_a_set():
    assert plain({"names": {"b", "a"}, "pair": (1, 2)}) == {"names": ["a", "b"], "pair": [1, 2]}

"""`meta_dataset="train"`: nothing is held out, and no step validates on a row it trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_meta_adapters import meta_step
from hf_meta_adapters.errors import CheckpointError, ConfigurationError, DataError
from tests.training import LANGUAGES, make_model, make_trainer, rows, texts

Rows = set[tuple[int, ...]]


def read(trainer: Any, step: int, role: str, language: str) -> Rows:
    """The rows of a role in a step."""
    return {tuple(row.tolist()) for row in trainer.seen[step][role][language]["input_ids"]}


def test_a_step_trains_and_validates_on_different_rows_of_the_same_data(tmp_path: Path) -> None:
    data = texts(1, count=7)
    trainer = make_trainer(
        tmp_path,
        make_model(),
        train_dataset=data,
        meta_dataset="train",
        meta_batch_size=1,
        max_steps=8,
    )
    trainer.train()
    assert trainer.meta_dataset == "train"
    for language in LANGUAGES:
        every = {tuple(row["input_ids"]) for row in data[language]}
        roles: dict[str, Rows] = {"train": set(), "meta": set()}
        for step in range(8):
            both = [read(trainer, step, role, language) for role in ("train", "meta")]
            assert [len(found) for found in both] == [2, 1]
            assert not both[0] & both[1]
            roles = {role: roles[role] | found for role, found in zip(roles, both, strict=True)}
        assert roles["train"] == every  # nothing was held out
        assert len(roles["meta"]) > 1
        assert roles["meta"] <= every
    assert trainer.progress.examples_seen == {
        "train": dict.fromkeys(sorted(LANGUAGES), 16),
        "meta": dict.fromkeys(sorted(LANGUAGES), 8),
    }


def test_the_step_is_that_of_meta_step_on_these_rows(tmp_path: Path) -> None:
    model, start = make_model(), make_model()
    trainer = make_trainer(
        tmp_path, model, meta_dataset="train", max_steps=1, optim="sgd", max_grad_norm=0
    )
    trainer.args.warmup_steps = 0
    trainer.train()
    (inputs,) = trainer.seen
    found = meta_step(start, inputs["train"], inputs["meta"], inner_learning_rate=0.01)
    rate = trainer.args.adapter_rate(trainer.args.learning_rate, beside_shared=True)
    for language in LANGUAGES:
        for name, value in model.language_parameters(language).items():
            before = start.language_parameters(language)[name].detach()
            expected = before - rate * found.language[language].get(name, torch.zeros(()))
            torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-8)


def test_named_meta_languages_alone_deal_their_rows(tmp_path: Path) -> None:
    """`te` and `zh-Hant` train on all their rows, copies and all; `da` validates as well."""
    data = {**texts(1, count=7), "te": rows(5, 1) * 2}
    model, start = make_model(), make_model()
    trainer = make_trainer(
        tmp_path,
        model,
        train_dataset=data,
        meta_dataset="train",
        meta_languages=["da"],
        max_steps=4,
        optim="sgd",
        max_grad_norm=0,
    )
    trainer.args.warmup_steps = 0
    trainer.train()
    for step in range(4):
        assert list(trainer.seen[step]["meta"]) == ["da"]
        assert not read(trainer, step, "train", "da") & read(trainer, step, "meta", "da")
    assert trainer.progress.examples_seen["meta"] == {"da": 8}
    trainer.save_model(str(tmp_path / "saved"))
    manifest = json.loads((tmp_path / "saved" / "language_adapters.json").read_text())
    assert json.dumps({"te": {"train": 2}})[1:-1] in json.dumps(manifest)
    assert json.dumps({"da": {"train": 7, "meta": 7}})[1:-1] in json.dumps(manifest)

    # The first step is that of `meta_step` on its rows, for the language that only trains as well.
    inputs = trainer.seen[0]
    found = meta_step(
        start, inputs["train"], inputs["meta"], inner_learning_rate=0.01, meta_languages=["da"]
    )
    assert any(bool(value.any()) for value in found.language["te"].values())


def test_a_saved_model_says_so(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model(), meta_dataset="train", max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    manifests = [path.read_text() for path in (tmp_path / "saved").glob("*.json")]
    (manifest,) = [json.loads(text) for text in manifests if '"meta_dataset": "train"' in text]
    assert json.dumps({"train": 8, "meta": 8}) in json.dumps(manifest)


@pytest.mark.parametrize("first", ["train", "held out"])
def test_a_run_does_not_go_on_with_other_meta_rows(tmp_path: Path, first: str) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    kinds: dict[str, Any] = {"train": "train", "held out": texts(2)}
    make_trainer(tmp_path, make_model(), meta_dataset=kinds.pop(first), **saving).train()
    (other,) = kinds.values()
    again = make_trainer(tmp_path, make_model(), meta_dataset=other, **{**saving, "max_steps": 2})
    with pytest.raises(CheckpointError, match="`meta rows` was"):
        again.train(resume_from_checkpoint=True)


def test_without_a_meta_gradient_it_has_nothing_to_do(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, make_model(), meta_dataset="train", adapter_update="train", max_steps=1
    )
    trainer.train()
    assert trainer.meta_dataset is None
    assert "meta" not in trainer.seen[0]


class Stream:
    """Rows that come as they come."""

    def __init__(self, several: list[Any]) -> None:
        self._rows = several

    def __iter__(self) -> Any:
        return iter(self._rows)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"train_dataset": {**texts(1), "da": rows(5, 3)}}, DataError, r"Found {'da': 3}. Lower"),
        ({"gradient_accumulation_steps": 3}, DataError, "6 training rows and 6 meta rows"),
        (
            {"train_dataset": {**texts(1), "te": rows(5) + rows(5, 2)}},
            DataError,
            "2 rows of 'te' that are copies of earlier ones, the first in row 8, equal to row 0",
        ),
        (
            {"train_dataset": {"te": Stream(rows(5))}},
            DataError,
            r"streaming training data of \['te",
        ),
        (
            {"meta_languages": ["da"], "languages_per_step": 2},
            ConfigurationError,
            "which are in every step, and `languages_per_step`",
        ),
        ({"meta_languages": ["sw", "da"]}, DataError, r"Found none of \['sw'\] in `train_dataset`"),
        (
            {"train_dataset": {**texts(1), "da": rows(5, 3)}, "meta_languages": ["da"]},
            DataError,
            r"Found {'da': 3}. Lower",
        ),
        ({"lookahead": "next"}, ConfigurationError, '`lookahead="next"` takes the training text'),
        ({"eval_dataset": texts(1)}, DataError, "rows of the selection data of 'te'"),
        ({"meta_dataset": "training"}, DataError, 'Found a `str`.*`meta_dataset="train"` takes'),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_trainer(tmp_path, make_model(), **{"meta_dataset": "train", **given})

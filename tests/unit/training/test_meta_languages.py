"""Meta languages that are named, in the Trainer: which rows a step holds, and what they move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser

from hf_meta_adapters import MetaAdapterTrainingArguments, meta_step
from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.errors import ConfigurationError, DataError
from tests.training import LANGUAGES, make_model, make_trainer, moved, snapshot, texts


def of(*languages: str, seed: int = 2):
    """Rows of some languages."""
    return texts(seed, languages)


def test_languages_that_only_train_and_only_validate(tmp_path: Path) -> None:
    model = make_model()
    before = snapshot(model)
    trainer = make_trainer(
        tmp_path,
        model,
        train_dataset=of("te"),
        meta_dataset=of("da", seed=3),
        meta_languages=["da"],
        max_steps=3,
    )
    trainer.train()
    assert moved(before, model) == {"shared", "te", "da"}
    for inputs in trainer.seen:
        assert (list(inputs["train"]), list(inputs["meta"])) == (["te"], ["da"])
    assert trainer.progress.examples_seen == {"train": {"te": 6}, "meta": {"da": 6}}


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_first_step_is_that_of_the_function(tmp_path: Path, order) -> None:
    weights = {"da": 2.0, "zh-Hant": 1.0}
    model = make_model(dtype=torch.float64)
    trainer = make_trainer(
        tmp_path,
        model,
        train_dataset=of("te", "da"),
        meta_dataset=of("da", "zh-Hant", seed=3),
        meta_languages=weights,
        max_steps=1,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        adapter_learning_rate=0.01,
        update_order=order,
    )
    start = make_model(dtype=torch.float64)
    trainer.train()
    (inputs,) = trainer.seen
    found = meta_step(
        start, inputs["train"], inputs["meta"], inner_learning_rate=0.01, meta_languages=weights
    )
    for language in LANGUAGES:
        for name, value in model.language_parameters(language).items():
            before = start.language_parameters(language)[name].detach()
            expected = before - 0.01 * found.language[language].get(name, torch.zeros(()))
            torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-9)


def test_named_languages_are_in_every_step_in_any_epoch() -> None:
    sizes = {"te": 5, "da": 9, "zh-Hant": 4}
    sampler = LanguageBatchSampler(
        sizes,
        {"da": 3, "sw": 7},
        meta_in_every_step=True,
        batch_size=2,
        meta_batch_size=1,
        languages_per_step=1,
    )
    rows = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for step, keys in enumerate(sampler):
            trained = {key.language for key in keys if key.role == "train"}
            assert len(trained) == 1
            meta = [key for key in keys if key.role == "meta"]
            assert [key.language for key in meta] == ["da", "sw"]
            rows.append([key.index for key in meta])
            number = epoch * len(sampler) + step
            assert sampler.examples_seen(epoch, step)["meta"] == {"da": number, "sw": number}

    # Each role of each language goes through all its rows before one comes again.
    for position, size in enumerate([3, 7]):
        seen = [row[position] for row in rows]
        for start in range(0, len(seen) - size + 1, size):
            assert sorted(seen[start : start + size]) == list(range(size))


def test_meta_text_is_split_off_the_named_languages_alone(tmp_path: Path) -> None:
    rows = texts(1, LANGUAGES, count=20)
    trainer = make_trainer(
        tmp_path, make_model(), train_dataset=rows, meta_dataset=None, meta_languages=["da"]
    )
    assert {key: len(data) for key, data in trainer.meta_dataset.items()} == {"da": 2}
    assert {key: len(data) for key, data in trainer.train_dataset.items()} == {
        "te": 20,
        "da": 18,
        "zh-Hant": 20,
    }


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path) -> None:
    given = {
        "train_dataset": of(*LANGUAGES),
        "meta_dataset": of("da", "te", seed=3),
        "meta_languages": {"da": 2.0, "te": 1.0},
        "languages_per_step": 2,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = make_model()
    make_trainer(tmp_path, whole, **given).train()
    resumed = make_model(seed=1)
    make_trainer(tmp_path / "b", resumed, **given).train(str(tmp_path / "checkpoint-2"))
    after = snapshot(resumed)
    assert all(torch.equal(after[name], value) for name, value in snapshot(whole).items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train_dataset": of("te"), "meta_dataset": None, "meta_languages": ["da"]},
            r"Found none of \['da'\] in `train_dataset`",
        ),
        (
            {"meta_dataset": of("te", seed=3), "meta_languages": ["da"]},
            r"Found none of \['da'\] in `meta_dataset`",
        ),
        (
            {"meta_dataset": of("te", "da", seed=3), "meta_languages": ["da"]},
            r"Found \['te'\] beside \['da'\]: no step would read these rows",
        ),
        (
            {
                "train_dataset": of("te", "da", seed=3),
                "meta_dataset": of("te", "da", seed=3),
                "meta_languages": ["da", "te"],
            },
            "A text must have only one role",
        ),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, given, message) -> None:
    with pytest.raises(DataError, match=message):
        make_trainer(tmp_path, make_model(), **given)


def test_a_command_line_has_json() -> None:
    parser = HfArgumentParser(MetaAdapterTrainingArguments)
    for text, expected in (
        ("others", "others"),
        ('["sw", "hi"]', ["sw", "hi"]),
        ('{"sw": 2.0}', {"sw": 2.0}),
    ):
        line = ["--output_dir", "unused", "--report_to", "none", "--meta_languages", text]
        (found,) = parser.parse_args_into_dataclasses(line)
        assert found.meta_languages == expected

    with pytest.raises(ConfigurationError, match=r"\['sw' is not|which is not JSON"):
        parser.parse_args_into_dataclasses([*line[:-1], "[sw]"])


def one_projected_step(folder: Path, seed: int, size: int):
    """The model after a step, and what `meta_step` finds on the same rows, projected and plain."""
    project = {"shared_update": "project", "shared_update_groups": "layer"}
    model, start = (make_model(["te", "da"], dtype=torch.float64) for _ in range(2))
    trainer = make_trainer(
        folder,
        model,
        train_dataset=of("te", "da"),
        meta_dataset=of("te", "da", seed=seed),
        max_steps=1,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        languages_per_pass=size,
        **project,
    )
    trainer.train()
    (inputs,) = trainer.seen
    batches = inputs["train"], inputs["meta"]
    found, plain = (
        meta_step(start, *batches, inner_learning_rate=0.01, **options) for options in (project, {})
    )
    logged = trainer.state.log_history[0]["shared_removed"]
    assert logged == pytest.approx(float(found.removed), rel=1e-6)
    return model, start, found, plain


@pytest.mark.parametrize("size", [1, 2])
def test_the_shared_weights_take_the_projected_step(tmp_path: Path, size) -> None:
    """Labels are random: on some rows, layers of the two roles oppose one another."""
    for seed in range(3, 23):
        model, start, found, plain = one_projected_step(tmp_path / str(seed), seed, size)
        if found.removed > 0.001:
            break
    assert found.removed > 0.001
    assert any(not torch.equal(found.shared[name], plain.shared[name]) for name in found.shared)

    after = model.shared_parameters()
    for name, before in start.shared_parameters().items():
        expected = before.detach() - 0.01 * found.shared.get(name, torch.zeros(()))
        torch.testing.assert_close(after[name].detach(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"update_order": "alternating"}, 'Found `update_order="alternating"`'),
        ({"adapter_update": "train"}, "which does not compute v"),
    ],
)
def test_a_projection_needs_the_validation_gradient(tmp_path: Path, given, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MetaAdapterTrainingArguments(str(tmp_path), shared_update="project", **given)


def test_a_projection_needs_adapters(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no language has parameters of its own"):
        make_trainer(tmp_path, make_model(config=None), shared_update="project")

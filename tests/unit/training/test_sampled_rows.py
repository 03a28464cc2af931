"""`mixed_rows="auto"`: when it measures, what it trains with, what it saves and refuses."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from transformers import HfArgumentParser

from hf_meta_adapters import MetaAdapterTrainingArguments, meta_step
from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from hf_meta_adapters.meta.sample_share import SampleShare
from hf_meta_adapters.training import _next_step, _outer_step
from hf_meta_adapters.training._sampled_rows import SAMPLED_ROWS, SampledRows
from tests.training import make_model, make_trainer, masking, snapshot, texts

from .test_arguments import arguments
from .test_language_weights import lines
from .test_skipped_steps import poisoned

AUTO = {"mixed_rows": "auto"}
NEXT = {"lookahead": "next", "meta_dataset": None}
SIZES = {"per_device_train_batch_size": 8, "train_dataset": texts(1, count=16)}


def trained(folder, resume=None, *, dropout=0.0, **given):
    model = make_model(dtype=torch.float64, dropout=dropout)
    trainer = make_trainer(folder, model, **{**SIZES, **AUTO, **given})
    trainer.train(resume)
    return trainer


def rows_of(**given):
    return SampledRows(arguments(**{**AUTO, **given}), takes_meta=True)


def test_it_measures_often_in_the_beginning_and_seldom_later():
    rows = rows_of()
    due = [step for step in range(450) if rows.is_due(step)]
    assert due == [1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400]
    rows = rows_of(meta_every=3)
    assert [step for step in range(450) if rows.is_due(step)] == [3 * step for step in due[:8]]


@pytest.mark.parametrize("given", [{"mixed_rows": 0.5}, {"mixed_rows": None}])
def test_a_number_is_a_number(tmp_path, given):
    rows = rows_of(**given)
    assert rows.share == given["mixed_rows"] or rows.share == 1.0
    assert not any(rows.is_due(step) for step in range(200))
    assert rows.learn(None) == {}
    rows.save(tmp_path)
    rows.load(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [{}, {"update_order": "alternating"}, {"preset": "paper"}, {"meta_gradient": "exact"}, NEXT],
)
def test_as_long_as_it_measures_it_trains_on_all_rows(tmp_path, given):
    """The first three steps are those of a run with all rows, whatever the samples of them say."""
    found = trained(tmp_path / "auto", max_steps=3, **given)
    expected = trained(tmp_path / "all", max_steps=3, mixed_rows=None, **given)
    for name, value in snapshot(expected.model).items():
        torch.testing.assert_close(snapshot(found.model)[name], value, rtol=1e-5, atol=1e-7)
    assert lines(found)[0]["mixed_rows"] == 1.0
    assert [("mixed_rows_cosine" in line) for line in lines(found)] == [False, True, True]
    assert not any("mixed_rows" in line for line in lines(expected))


@pytest.mark.parametrize(
    ("lookahead", "order"),
    # alternating, per language, each is measured when those before it have moved
    [("shared", "simultaneous"), ("per_language", "simultaneous"), ("shared", "alternating")],
)
def test_the_measured_cosine_is_that_of_two_steps(tmp_path, lookahead, order):
    given = {"lookahead": lookahead, "update_order": order, "inner_learning_rate": 3.0}
    given["meta_gradient"] = "exact"
    first = trained(tmp_path / "one", max_steps=1, lr_scheduler_type="constant", **given)
    second = trained(tmp_path / "two", max_steps=2, lr_scheduler_type="constant", **given)
    model, inputs = first.model, second.seen[1]

    gradients = []
    for share in (0.75, 1.0):
        one = meta_step(
            model, inputs["train"], inputs["meta"], mixed_rows=share,
            inner_learning_rate=3.0, lookahead=lookahead, meta_gradient="exact",
        )  # fmt: skip
        names = [(key, name) for key in one.language for name in one.language[key]]
        gradients.append(torch.cat([one.language[key][name].reshape(-1) for key, name in names]))
    expected = float(torch.cosine_similarity(*gradients, dim=0))
    assert lines(second)[1]["mixed_rows_cosine"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("module", "takes", "given"),
    [
        (_outer_step, ("meta_step", "compared_meta_step"), {}),
        (_next_step, ("next_step", "compared_next_step"), NEXT),
    ],
)
def test_steps_are_taken_with_what_was_chosen(tmp_path, monkeypatch, module, takes, given):
    shares = []
    for name in takes:
        take = getattr(module, name)

        def call(*args, name=name, take=take, **options):
            shares.append((name, options["mixed_rows"]))
            return take(*args, **options)

        monkeypatch.setattr(module, name, call)

    trainer = trained(tmp_path, max_steps=8, **given)
    logged = [1.0, *(line["mixed_rows"] for line in lines(trainer))]
    choice = SampleShare()
    for step, (name, share) in enumerate(shares):
        choice.share = logged[step]
        compares = "compared" in name
        assert share == (choice.candidate if compares else choice.share)

    compared = [step for step, (name, _) in enumerate(shares) if "compared" in name]
    # a look-ahead to the next step keeps the rows one step before
    assert compared == ([1, 2, 4] if module is _outer_step else [0, 1, 2, 3, 4, 7])
    measured = [step for step, line in enumerate(lines(trainer)) if "mixed_rows_cosine" in line]
    assert measured == [1, 2, 4]
    assert logged[-1] < 1


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "given",
    [
        {"inner_learning_rate": 3.0, "adapter_update": "meta+train"},
        NEXT,
        {**NEXT, "finite_difference_scheme": "one_sided", "indirect_ratio": 0.5},
        {**NEXT, "meta_gradient": "exact", "gradient_accumulation_steps": 2, "meta_every": 2},
    ],
    ids=["meta", "next", "next, one-sided", "next, accumulated, now and then"],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, given, stop):
    """Wherever it stops: before, between and after the steps in which rows are compared."""
    given = {"dropout": 0.1, "data_collator": masking(), "max_steps": 6, **given}
    whole = trained(tmp_path / "a", save_strategy="steps", save_steps=1, **given)
    resumed = trained(tmp_path / "b", str(tmp_path / "a" / f"checkpoint-{stop}"), **given)
    expected = snapshot(whole.model)
    for name, value in snapshot(resumed.model).items():
        assert torch.equal(value, expected[name]), name
    rest = [[line["mixed_rows"] for line in lines(one)] for one in (whole, resumed)]
    assert rest[0] == rest[1]
    states = [one._outer_step._rows._choice.state() for one in (whole, resumed)]
    assert states[0] == states[1]


@pytest.mark.parametrize("mixed_rows", ["auto", 0.5, None])
def test_a_language_without_a_label_was_not_kept(tmp_path, mixed_rows):
    """Nor is it in a run that is resumed, in which its rows are there again."""
    data = texts(1, count=16)
    for row in data["da"][4:]:
        row["labels"] = [-100] * len(row["labels"])
    given = {**NEXT, "mixed_rows": mixed_rows, "train_dataset": data, "max_steps": 5}
    given["per_device_train_batch_size"] = 2
    whole = trained(tmp_path / "a", save_strategy="steps", save_steps=1, **given)
    assert 0 < lines(whole)[-1]["unlabeled_steps_da"] < 5

    expected = snapshot(whole.model)
    for stop in range(1, 5):
        resumed = trained(tmp_path / "b", str(tmp_path / "a" / f"checkpoint-{stop}"), **given)
        assert all(torch.equal(v, expected[n]) for n, v in snapshot(resumed.model).items())


def test_a_checkpoint_without_the_noise_is_refused(tmp_path):
    trainer = trained(tmp_path, max_steps=3, save_strategy="steps", save_steps=3)
    folder = tmp_path / "checkpoint-3"
    place = folder / SAMPLED_ROWS
    assert SAMPLED_ROWS in json.loads((folder / "checkpoint.json").read_text())["files"]
    rows = trainer._outer_step._rows
    for content in ("{", "[]", '{"share": 0.3, "noise": 0, "count": 1, "whole": 0}', "{}", None):
        place.unlink()
        if content is not None:
            place.write_text(content)
        with pytest.raises(CheckpointError, match=r"Found none that fits in .*sampled_rows"):
            rows.load(folder)
        place.touch()


@pytest.mark.parametrize("given", [{}, {"preset": "paper"}])
def test_nothing_is_learned_from_a_step_that_is_skipped(tmp_path, given):
    trainer = poisoned(tmp_path, (1,), inner_learning_rate=0.5, **AUTO, **given)
    with pytest.warns(UserWarning, match="Step 2 is skipped"):
        trainer.train()
    measured = [step for step, line in enumerate(lines(trainer)) if "mixed_rows_cosine" in line]
    assert measured == [2, 4]
    # of two rows three quarters are both, as the first one showed
    state = trainer._outer_step._rows._choice.state()
    assert (state["whole"], state["count"]) == (1, 1)


def test_it_falls_back_with_the_share_that_was_chosen(tmp_path):
    given = {"fidelity_check_steps": 2, "inner_learning_rate": 3.0, "min_fidelity": 0.9999}
    with pytest.warns(UserWarning, match="has drifted from the exact one"):
        trainer = trained(tmp_path, max_steps=5, **given)
    assert trainer._outer_step.check.level > 0
    assert [("mixed_rows_cosine" in line) for line in lines(trainer)] == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"meta_gradient": "first_order"}, "which has no mixed product"),
        ({"inner_steps": 2, "lookahead": "per_language"}, "`inner_steps=2`, whose products"),
        ({"languages_per_pass": 2}, "in passes of its own. Found `languages_per_pass=2`"),
        ({"languages_per_pass": 2, "lookahead": "next"}, "Found `languages_per_pass=2`"),
        ({"mixed_rows": "half"}, "Found 'half'"),
        ({"mixed_rows": "2"}, "Found 2.0"),
        ({"mixed_rows": 0.0}, "Found 0.0"),
        (
            {"mixed_rows": "auto", "mixed_languages": 0.5},
            "Found `mixed_languages=0.5`",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(given, said):
    with pytest.raises(ConfigurationError, match=said):
        arguments(**{**AUTO, **given})


@pytest.mark.parametrize("given", [{"adapter_update": "train"}, {"config": None}])
def test_without_a_meta_gradient_there_is_nothing_to_choose(tmp_path, given):
    given, config = dict(given), given.get("config", "bottleneck")
    given.pop("config", None)
    trainer = make_trainer(tmp_path, make_model(config=config), **AUTO, **given)
    trainer.train()
    assert not any("mixed_rows" in line for line in lines(trainer))


def test_arguments_keep_the_word(tmp_path):
    args = arguments(**AUTO)
    assert (args.mixed_rows, args.meta_options().mixed_rows) == ("auto", 1.0)
    assert args.method()["mixed_rows"] == "auto"
    assert copy.copy(args).mixed_rows == "auto"
    assert dataclasses.replace(args, learning_rate=0.1).mixed_rows == "auto"
    parser = HfArgumentParser(MetaAdapterTrainingArguments)
    for word, expected in (("auto", "auto"), ("0.25", 0.25)):
        (parsed,) = parser.parse_args_into_dataclasses(
            ["--output_dir", str(tmp_path), "--mixed_rows", word, "--use_cpu", "true"]
        )
        assert parsed.mixed_rows == expected

"""Weights of languages in a Trainer: what a step uses and learns, what is logged and refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from hf_meta_adapters.meta.alignment import Alignment
from hf_meta_adapters.meta.famo import Famo
from hf_meta_adapters.training import _outer_step
from tests.training import LANGUAGES, make_model, make_trainer

from .test_arguments import arguments
from .test_skipped_steps import poisoned

FAMO, ALIGNMENT = {"language_weights": "famo"}, {"language_weights": "alignment"}


def lines(trainer):
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("given", [{}, {"adapter_update": "train"}, {"languages_per_step": 2}])
def test_famo_learns_from_the_losses_of_the_log(tmp_path, given):
    trainer = make_trainer(tmp_path, make_model(), max_steps=5, **FAMO, **given)
    trainer.train()
    expected = Famo(LANGUAGES)
    for line in lines(trainer):
        held = [key for key in LANGUAGES if f"loss_{key}" in line]
        assert len(held) == given.get("languages_per_step", 3)
        weights = {key: line[f"weight_{key}"] for key in held}
        assert weights == pytest.approx({key: expected.weights()[key] for key in held}, rel=1e-5)
        expected.observe({key: line[f"loss_{key}"] for key in held}, {})


def recorded(monkeypatch, names):
    """The weights that steps are given, and what they give back."""
    found = []
    for name in names:
        take = getattr(_outer_step, name)

        def call(*args, name=name, take=take, **given):
            result = take(*args, **given)
            found.append((name, given["step_weights"], result))
            return result

        monkeypatch.setattr(_outer_step, name, call)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("meta_every", [1, 2])
def test_alignment_compares_with_v_of_the_last_meta_step(tmp_path, monkeypatch, meta_every):
    found = recorded(monkeypatch, ("meta_step", "joint_step"))
    given = {"language_weights_rate": 0.5, "max_steps": 5, "meta_every": meta_every}
    trainer = make_trainer(tmp_path, make_model(), **ALIGNMENT, **given)
    trainer.train()
    expected, against = Alignment(LANGUAGES, 0.5), None
    for line, (name, weights, result) in zip(lines(trainer), found, strict=True):
        assert weights.weights == expected.weights()
        assert [line[f"weight_{key}"] for key in LANGUAGES] == pytest.approx(
            list(expected.weights().values())
        )
        if against is None:
            assert weights.against is None
        else:
            assert same(weights.against, against)
            expected.observe({}, {key: entry.item() for key, entry in result.alignment.items()})
        if name == "meta_step":
            against = result.validation
    assert expected.weights() != dict.fromkeys(LANGUAGES, 1 / 3)


def test_alternating_updates_take_the_mean_of_v(tmp_path, monkeypatch):
    found = recorded(monkeypatch, ("meta_step", "joint_step"))
    make_trainer(tmp_path, make_model(), max_steps=2, preset="paper", **ALIGNMENT).train()
    assert [name for name, *_ in found] == 2 * [*(3 * ["meta_step"]), "joint_step"]
    assert [weights.against for _, weights, _ in found[:4]] == 4 * [None]
    assert [weights.against for _, weights, _ in found[4:7]] == 3 * [None]
    mean = found[7][1].against
    for name, entry in mean.items():
        parts = [result.validation[name] for _, _, result in found[:3]]
        assert torch.equal(entry, parts[0] + parts[1] + parts[2])


@pytest.mark.parametrize("method", [ALIGNMENT, {**ALIGNMENT, "preset": "paper"}, FAMO])
def test_nothing_is_learned_from_a_step_that_is_skipped(tmp_path, method):
    trainer = poisoned(tmp_path, (1, 2), **method)
    learned = trainer._outer_step._weighting
    states = []
    take = trainer.training_step

    def training_step(*args):
        before = learned.of_step()
        loss = take(*args)
        states.append((before, learned.of_step()))
        return loss

    trainer.training_step = training_step
    with pytest.warns(UserWarning, match="is skipped"):
        trainer.train()
    for step, (before, after) in enumerate(states):
        unchanged = before.weights == after.weights and before.against is after.against
        assert unchanged == (step in (1, 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"language_weights": "doge"}, 'must be one of "uniform", "alignment", "famo"'),
        ({"language_weights_rate": 0.1}, 'Found 0.1 with `language_weights="uniform"`'),
        ({**FAMO, "language_weights_rate": -1}, "`language_weights_rate` must be a number"),
        ({**FAMO, "lookahead": "next"}, 'Found `lookahead="next"`, which differentiates'),
        ({**FAMO, "languages_per_step": 1}, "Found `languages_per_step=1`, which leaves no"),
        ({**FAMO, "languages_per_pass": 2}, "Found `languages_per_pass=2`, which takes one"),
        ({**ALIGNMENT, "adapter_update": "train"}, "Found `adapter_update='train'`, which"),
        ({**ALIGNMENT, "meta_gradient": "first_order"}, "Found `meta_gradient='first_order'`"),
        ({**ALIGNMENT, "cpu_offload": True}, "Found `cpu_offload=True`, which moves it"),
    ],
)
def test_arguments_that_cannot_work_are_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        arguments(**given)


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        ({"config": None}, ALIGNMENT, 'no language has parameters .* use `"famo"`'),
        ({"languages": LANGUAGES[:1]}, FAMO, "needs several languages. Found one, 'te'"),
        ({"shared": "none"}, {**FAMO, "adapter_update": "train"}, "needs shared weights θ"),
        ({}, {**FAMO, "language_weights_rate": 0}, "must be a positive number. Found 0."),
    ],
)
def test_models_that_cannot_work_are_refused_when_the_trainer_is_made(
    tmp_path, made, given, message
):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(tmp_path, make_model(**made), **given)


@pytest.mark.parametrize(
    "made",
    [
        {"config": LoraConfig(r=2, target_modules=["query"])},
        {"shared": LoraConfig(r=2, target_modules=["query"])},
        {"name": "llama"},
        {"name": "mt5"},
    ],
)
def test_other_models_learn_weights_as_well(tmp_path, made):
    given = {"language_weights_rate": 1.0, "max_steps": 2}
    trainer = make_trainer(tmp_path, make_model(**made), **ALIGNMENT, **given)
    trainer.train()
    assert len(set(trainer._outer_step._weighting.of_step().weights.values())) == 3


@pytest.mark.parametrize("method", [ALIGNMENT, FAMO])
def test_a_checkpoint_without_the_weights_is_refused(tmp_path, method):
    given = {"save_strategy": "steps", "save_steps": 2, **method}
    trainer = make_trainer(tmp_path, make_model(), **given)
    trainer.train()
    weighting = trainer._outer_step._weighting
    with pytest.raises(CheckpointError, match=r"Found none that fit in .*language_weights"):
        weighting.load(tmp_path, torch.device("cpu"))
    other = make_trainer(tmp_path / "other", make_model(("te", "da")), **given)
    with pytest.raises(CheckpointError, match=r'weights of \["te", "da", "zh-Hant"\]'):
        other._outer_step._weighting.load(tmp_path / "checkpoint-2", torch.device("cpu"))

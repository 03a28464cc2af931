"""Gradient surgery in the Trainer: the step that is taken, the log, the checkpoint, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_meta_adapters import MetaAdapterTrainingArguments, joint_step, meta_step
from hf_meta_adapters.errors import CheckpointError, ConfigurationError, NonFiniteLossError
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.training import _checkpoint_seal as seals
from tests.training import LANGUAGES, make_model, make_trainer

SGD = {
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "max_steps": 1,
    "shared_update": "upgrad",
}


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("options", [{}, {"config": None}, {"share_adapter": True}], ids=str)
def test_the_shared_weights_take_the_combined_step(tmp_path: Path, options, order) -> None:
    model, start = (make_model(dtype=torch.float64, **options) for _ in range(2))
    trainer = make_trainer(tmp_path, model, update_order=order, **SGD)
    trainer.train()
    (inputs,) = trainer.seen
    surgery = Surgery("upgrad", seed=42)

    if "meta" not in inputs:  # no language has parameters of its own
        found = joint_step(start, inputs["train"], surgery=surgery)
    elif order == "simultaneous":
        given = {"inner_learning_rate": 0.01, "surgery": surgery}
        found = meta_step(start, inputs["train"], inputs["meta"], **given)
    else:  # the training gradient is that at the new φ
        after = dict(model.named_parameters())
        for key in start.languages:
            for name, parameter in start.language_parameters(key).items():
                parameter.data.copy_(after[name].data)
        found = joint_step(start, inputs["train"], surgery=surgery)

    moved = model.shared_parameters()
    for name, before in start.shared_parameters().items():
        expected = before.detach() - 0.01 * found.shared.get(name, torch.zeros(()))
        torch.testing.assert_close(moved[name].detach(), expected, rtol=1e-9, atol=1e-11)

    logged = trainer.state.log_history[0]
    for key, weight in found.weights.items():
        assert logged[f"shared_weight_{key}"] == pytest.approx(float(weight), rel=1e-6)


def test_a_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    def spoiled(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].mean() * float("nan")

    for way in ("keep", "sketch", "lagged"):
        trainer = make_trainer(
            tmp_path / way, make_model(), compute_loss_func=spoiled, surgery_gradients=way, **SGD
        )
        with pytest.raises(NonFiniteLossError, match="training loss of 'te'"):
            trainer.train()


def test_a_checkpoint_has_the_state(tmp_path: Path) -> None:
    given = {**SGD, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(tmp_path, make_model(), **given)
    trainer.train()
    folder = tmp_path / "checkpoint-2"
    tables = load_file(folder / "surgery.safetensors")
    assert tables["products"].shape == (1, len(LANGUAGES), len(LANGUAGES))
    assert "surgery.safetensors" in json.loads((folder / "checkpoint.json").read_text())["files"]

    state = {"method": "upgrad", "steps": 2, "languages": list(LANGUAGES)}
    for given_tables, changes, message in (
        (tables, {"method": "mgda"}, "goes on from the inner products"),
        (tables, {"method": "surgeon"}, "another `surgery.safetensors`"),
        (tables, {"languages": ["te"]}, "another `surgery.safetensors`: tables"),
        ({**tables, "mass": tables["mass"] / 0}, {}, "numbers that are not finite"),
        (None, {}, "goes on from the inner products"),
    ):
        place = folder / "surgery.safetensors"
        place.unlink()
        if given_tables is not None:
            save_file(given_tables, place, {"state": json.dumps({**state, **changes})})
        content = seals.read_record(folder)
        seals.seal(folder, {name: value for name, value in content.items() if name != "files"})
        again = make_trainer(tmp_path, make_model(), **{**given, "max_steps": 3})
        with pytest.raises(CheckpointError, match=message):
            again.train(resume_from_checkpoint=str(folder))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lookahead": "next"}, 'Found `lookahead="next"`'),
        ({"languages_per_pass": 2}, "Found `languages_per_pass=2`"),
        ({"languages_per_step": 1}, "Found `languages_per_step=1`, which has one language"),
        ({"shared_update": "pcd"}, "puts one language before all others"),
        ({"surgery_gradients": "kept"}, "`surgery_gradients` must be one of"),
        ({"shared_update": "mean", "surgery_gradients": "keep"}, "which has no weights"),
        ({"shared_update": "project", "surgery_gradients": "keep"}, "which has no weights"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, given, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MetaAdapterTrainingArguments(str(tmp_path), **{"shared_update": "pcgrad", **given})


def test_arguments_that_do(tmp_path: Path) -> None:
    args = MetaAdapterTrainingArguments(str(tmp_path), shared_update="pcgrad", preset="fast")
    assert (args.shared_update, args.shared_update_groups) == ("pcgrad", "model")
    assert args.meta_options().shared_update == "mean"
    given = {"lookahead": "next", "adapter_update": "train", "shared_update": "mgda"}
    assert MetaAdapterTrainingArguments(str(tmp_path), **given).shared_update == "mgda"


def test_a_model_without_shared_weights(tmp_path: Path) -> None:
    given = {"adapter_update": "train", "shared_update": "pcgrad"}
    with pytest.raises(ConfigurationError, match="Found a model without any that is trained"):
        make_trainer(tmp_path, make_model(shared="none"), **given)


def test_a_missing_extra_is_named_before_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hf_meta_adapters.meta.weightings.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"hf-meta-adapters\[surgery\]"):
        make_trainer(tmp_path, make_model(), shared_update="pcgrad")

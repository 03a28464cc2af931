"""SIGTERM with `enable_jit_checkpoint`: a whole checkpoint of the last finished step, from which
the run goes on bitwise as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training import _checkpoint_seal as seals
from tests.processes import outcome
from tests.training import LANGUAGES, Recorder, make_model, make_trainer, masking, snapshot, texts

FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}
pytestmark = pytest.mark.skipif(
    "enable_jit_checkpoint" not in FIELDS, reason="transformers 4 does not have the argument"
)
STEPS = 6  # of four in an epoch
EVERY = 100  # steps between checkpoints: only SIGTERM brings one


class Terminated(Recorder):
    """A run that is sent SIGTERM at a point of a step."""

    at: tuple[str, int] | None = None

    def reach(self, point, step):
        if self.at == (point, step):
            self.at = None
            os.kill(os.getpid(), signal.SIGTERM)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.reach("a step", self.state.global_step + 1)
        return loss

    def prediction_step(self, *args, **kwargs):
        self.reach("an evaluation", self.state.global_step)
        return super().prediction_step(*args, **kwargs)

    def _save(self, *args, **kwargs):
        self.reach("a save", self.state.global_step)
        return super()._save(*args, **kwargs)


class Points(TrainerCallback):
    """The other points, those of callbacks."""

    trainer = None

    def on_step_begin(self, args, state, control, **_):
        self.trainer.reach("the begin of a step", state.global_step + 1)

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.trainer.reach("the update", state.global_step + 1)

    def on_step_end(self, args, state, control, **_):
        self.trainer.reach("the end of a step", state.global_step)

    def on_epoch_end(self, args, state, control, **_):
        self.trainer.reach("the end of an epoch", state.global_step)


def run(folder, at=None, resume=None, options=None, **given):
    given = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": EVERY, **given}
    points = Points()
    trainer = make_trainer(
        folder,
        make_model(dropout=0.1, seed=bool(resume), **(options or {})),
        kind=Terminated,
        enable_jit_checkpoint=True,
        callbacks=[points],
        data_collator=masking(),
        **given,
    )
    points.trainer, trainer.at = trainer, at
    torch.manual_seed(bool(resume))
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.at is None
    trainer.draws = torch.rand(3).tolist()
    return trainer


def timeless(history):
    clock = ("_per_second", "_runtime")
    return [
        {name: value for name, value in line.items() if not name.endswith(clock)}
        for line in history
        if "train_runtime" not in line
    ]


def assert_same_run(whole, resumed):
    before = snapshot(whole.model)
    after = snapshot(resumed.model)
    assert [name for name, one in before.items() if not torch.equal(one, after[name])] == []
    states = [one.optimizer.state_dict() for one in (whole, resumed)]
    assert str(states[0]["param_groups"]) == str(states[1]["param_groups"])
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        for name, entry in state.items():
            assert torch.equal(entry, states[1]["state"][number][name])
    assert whole.lr_scheduler.state_dict() == resumed.lr_scheduler.state_dict()
    assert whole.progress.state_dict() == resumed.progress.state_dict()
    assert timeless(whole.state.log_history) == timeless(resumed.state.log_history)
    assert whole.state.best_global_step == resumed.state.best_global_step
    assert whole.state.best_metric == resumed.state.best_metric


EVALUATING = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": texts(3), "save_steps": 2}
BEST = {**EVALUATING, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
EPOCHS = {"eval_strategy": "epoch", "eval_dataset": texts(3)}
SENT = {  # where, in which step → the step of the checkpoint, settings
    "in a step": (("a step", 3), 3, {}),
    "in the first step": (("a step", 1), 1, {}),
    "in the last step of an epoch": (("a step", 4), 4, {}),
    "in the last step": (("a step", 6), 6, {}),
    "before a step": (("the begin of a step", 3), 3, {}),
    "between gradients and update": (("the update", 3), 3, {}),
    "after a step": (("the end of a step", 3), 3, {}),
    "at the end of an epoch": (("the end of an epoch", 4), 4, {}),
    "in an evaluation": (("an evaluation", 2), 2, EVALUATING),
    "before an evaluation": (("a step", 4), 4, EVALUATING),
    "before an evaluation that counts": (("the update", 2), 2, BEST),
    "before one, and only the best is saved": (("a step", 2), 2, {**BEST, "save_strategy": "best"}),
    "in a save": (("a save", 2), 2, BEST),
    "in the middle of an epoch that ends with an evaluation": (("a step", 3), 3, EPOCHS),
    "at the end of an epoch that ends with an evaluation": (("a step", 4), 4, EPOCHS),
    "without checkpoints": (("a step", 3), 3, {"save_strategy": "no"}),
    "alternating": (("the update", 3), 3, {"update_order": "alternating"}),
    "accumulation": (("a step", 3), 3, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize("when", SENT)
def test_the_run_goes_on_as_if_nothing_had_happened(tmp_path, when):
    at, step, given = SENT[when]
    whole = run(tmp_path / "whole", **given)
    stopped = run(tmp_path / "run", at, **given)
    assert stopped.state.global_step <= step + (at[0] in ("an evaluation", "a save"))
    place = tmp_path / "run" / f"checkpoint-{stopped.state.global_step}"
    assert seals.read_seal(place)["step"] == stopped.state.global_step
    assert sum("eval_loss" in line for line in stopped.state.log_history) <= 1

    resumed = run(tmp_path / "run", resume=True, **given)
    assert_same_run(whole, resumed)


def test_the_checkpoint_before_is_kept_until_the_new_one_is_sealed(tmp_path, monkeypatch):
    """As on a full disk, or where SIGKILL follows."""
    given = {"save_steps": 2, "save_total_limit": 1}

    def full(folder, record, **options):
        if record["step"] == 3:
            raise OSError(28, "No space left on device")
        seals.seal(folder, record, **options)

    monkeypatch.setattr("hf_meta_adapters.training._checkpoint_writer.seal", full)
    with pytest.raises(seals.CheckpointError, match="No space left"):
        run(tmp_path, ("the update", 3), **given)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert seals.read_seal(tmp_path / "checkpoint-2")["step"] == 2
    monkeypatch.undo()
    run(tmp_path, ("a step", 5), resume=True, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert seals.read_seal(tmp_path / "checkpoint-5")["step"] == 5


def test_the_signal_does_afterwards_what_it_did_before(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        trainer = run(tmp_path, ("a step", 2))
        assert (trainer.state.global_step, came) == (2, [])
        assert trainer.args.enable_jit_checkpoint
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_is_refused_before_training(tmp_path):
    found = []

    def train():
        try:
            run(tmp_path)
        except ConfigurationError as error:
            found.append(str(error))

    thread = threading.Thread(target=train, name="worker")
    thread.start()
    thread.join()
    assert "must be used in the main thread" in found[0]
    assert "Found 'worker'" in found[0]


def test_a_checkpoint_without_a_run_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigurationError, match="it together with `save_only_model=True`"):
        run(tmp_path, save_only_model=True)


def test_an_evaluation_is_not_caught_up_where_none_is_asked_for(tmp_path):
    stopped = run(tmp_path, ("a step", 4), **EVALUATING)
    assert json.loads((tmp_path / "checkpoint-4" / seals.SEAL).read_text())["evaluation_due"]
    resumed = run(tmp_path, resume=True, save_steps=2)
    for trainer in (stopped, resumed):
        lines = trainer.state.log_history
        assert [line["step"] for line in lines if "eval_loss" in line] == [2]


class GroupTold(Recorder):
    """Everything that this process has started is told as well, as a cluster does it."""

    resumed = False

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.resumed and self.state.global_step == 4:
            # Not by itself: workers that their own parent ends are no failure.
            subprocess.run([sys.executable, "-c", f"import os; os.killpg(0, {signal.SIGTERM:d})"])
            time.sleep(1)  # for workers to die, where they do
        return loss


KEPT = []
"""What a program holds until it ends, its workers included: it must not wait for them for ever."""


def train_with_workers(folder, workers, resumed):
    os.setpgid(0, 0)
    given = {"max_steps": STEPS, "save_strategy": "no", "dataloader_num_workers": 1, **EVALUATING}
    given["dataloader_persistent_workers"] = workers == "persistent"
    trainer = make_trainer(
        folder, make_model(), kind=GroupTold, enable_jit_checkpoint=True, **given
    )
    trainer.resumed = resumed
    trainer.train(resume_from_checkpoint=resumed or None)
    KEPT.append(trainer)
    sys.exit(40 + trainer.state.global_step)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.parametrize("workers", ["persistent", "new in each epoch"])
def test_workers_that_are_told_as_well_live_on(tmp_path, workers):
    for resumed, code in ((False, 45), (True, 40 + STEPS)):
        process = multiprocessing.get_context("fork").Process(
            target=train_with_workers, args=(tmp_path, workers, resumed)
        )
        process.start()
        process.join(60)
        assert process.exitcode == code
    assert seals.read_seal(tmp_path / "checkpoint-5")["step"] == 5


def train_two(rank, folder, told):
    given = {"max_steps": STEPS, "ddp_backend": "gloo", "ddp_timeout": 30, "save_strategy": "no"}
    trainer = make_trainer(
        folder, make_model(LANGUAGES), kind=Terminated, enable_jit_checkpoint=True, **given
    )
    if told == rank:
        trainer.at = ("a step", 3)
    trainer.train(resume_from_checkpoint=(told is None) or None)
    assert trainer.state.global_step == (STEPS if told is None else 3)


@pytest.mark.distributed
def test_both_processes_stop_after_the_same_step(tmp_path):
    for told in (1, None):
        codes, errors = outcome(tmp_path, train_two, [(str(tmp_path / "run"), told)] * 2)
        assert codes == [0, 0], errors
        assert seals.read_seal(tmp_path / "run" / "checkpoint-3")["step"] == 3

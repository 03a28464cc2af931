"""Two runs and one folder: they do not write to it together, and do not take each other's files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import TrainerCallback

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training import _run_folder, _run_lock
from hf_meta_adapters.training._checkpoint_seal import read_seal
from hf_meta_adapters.training._publishing import _OF_THE_RUN
from tests.processes import outcome
from tests.training import make_model, make_trainer, snapshot, texts

from .conftest import SAVING
from .test_checkpoints import clear

HELD = "must be the folder of one run at a time. Found .*, in which process .* is training"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_run_folder, "PATIENCE", 0.0)


class AtStep(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.do(control)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("resume", [None, True])
def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path, resume):
    caught = []

    def begin_another(_):
        other = make_trainer(tmp_path, make_model(seed=1), **SAVING)
        with pytest.raises(CheckpointError, match=HELD) as error:
            other.train(resume_from_checkpoint=resume)
        caught.append(error.value)
        assert other.evaluate(texts(3)).keys() >= {"eval_loss"}  # which only reads

    first = make_trainer(tmp_path, make_model(), callbacks=[AtStep(3, begin_another)], **SAVING)
    first.train()
    assert clear(caught[0]), caught[0]
    assert f"process {os.getpid()} on " in str(caught[0])
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert read_seal(tmp_path / "checkpoint-4")["step"] == 4
    make_trainer(tmp_path, make_model(seed=1), **SAVING).train(resume_from_checkpoint=True)


def test_runs_that_save_nothing_may_share_a_folder(tmp_path):
    def begin_another(_):
        make_trainer(tmp_path, make_model(seed=1)).train()

    make_trainer(tmp_path, make_model(), callbacks=[AtStep(1, begin_another)], **SAVING).train()


def test_an_error_releases_the_folder(tmp_path):
    def fail(_):
        raise RuntimeError("some other trouble")

    with pytest.raises(RuntimeError, match="some other trouble"):
        make_trainer(tmp_path, make_model(), callbacks=[AtStep(3, fail)], **SAVING).train()
    assert names(tmp_path) == ["checkpoint-2"]
    make_trainer(tmp_path, make_model(), **SAVING).train(resume_from_checkpoint=True)


def hold(folder, connection):
    """What a run does that starts a worker: the worker outlives it."""
    module = runpy.run_path(_run_lock.__file__)
    assert module["RunLock"](Path(folder), 0.0).acquire() is None
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    connection.send(worker)
    time.sleep(60)


def test_a_killed_run_holds_nothing_even_if_a_worker_outlives_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(str(tmp_path), there))
    process.start()
    worker = here.recv()
    try:
        said = _run_lock.RunLock(tmp_path, 0.0).acquire()
        assert f"in which process {process.pid} on " in said
        process.kill()
        process.join()
        os.kill(worker, 0)  # it lives

        lock = _run_lock.RunLock(tmp_path, 5.0)
        assert lock.acquire() is None
        lock.release()
        assert names(tmp_path) == []
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_is_waited_for(tmp_path):
    first, second = _run_lock.RunLock(tmp_path, 0.0), _run_lock.RunLock(tmp_path, 0.3)
    assert first.acquire() is None
    start = time.monotonic()
    assert "one run at a time" in second.acquire()
    assert time.monotonic() - start > 0.3
    first.release()
    assert second.acquire() is None
    second.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="must be locked while it trains. Found .*impossible"):
        make_trainer(tmp_path, make_model(), **SAVING).train()
    assert read_seal(tmp_path / "checkpoint-4")


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "run").mkdir()
    for name in (_run_lock.LOCK, _run_folder.RUN, "_run.partial"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    make_trainer(tmp_path / "seed", make_model(), **SAVING).train()
    shutil.copytree(tmp_path / "seed" / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    with pytest.warns(UserWarning, match="must be locked"):
        make_trainer(tmp_path / "run", make_model(), **{**SAVING, "max_steps": 2}).train()
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_neither_file_is_published():
    both = [_run_lock.LOCK, _run_folder.RUN]
    assert list(filter_repo_objects(both, ignore_patterns=list(_OF_THE_RUN))) == []


def stop(control):
    control.should_training_stop = True


def test_a_new_run_does_not_go_on_as_an_old_one(run_dir):
    """It is killed before its first checkpoint; then after one."""
    new = {**SAVING, "max_steps": 6}
    make_trainer(run_dir, make_model(seed=5), callbacks=[AtStep(1, stop)], **new).train()
    assert names(run_dir) == [_run_folder.RUN, "checkpoint-2", "checkpoint-4"]
    said = "Found .*checkpoint-4 is not of the run that was started last in this folder: to go on"
    with pytest.raises(CheckpointError, match=said) as error:
        make_trainer(run_dir, make_model(), **new).train(resume_from_checkpoint=True)
    assert clear(error.value), error.value

    whole = make_trainer(run_dir / "whole", make_model(seed=5), **new)
    whole.train()
    make_trainer(run_dir, make_model(seed=5), callbacks=[AtStep(3, stop)], **new).train()
    resumed = make_trainer(run_dir, make_model(), **new)
    with pytest.warns(UserWarning, match="resumes from .*checkpoint-2.*checkpoint-4 is not of the"):
        resumed.train(resume_from_checkpoint=True)
    expected = snapshot(whole.model)
    assert all(torch.equal(one, expected[name]) for name, one in snapshot(resumed.model).items())

    # by now all of them are checkpoints of the new run
    assert names(run_dir) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "whole"]
    make_trainer(run_dir, make_model(), **new).train(resume_from_checkpoint=True)


def test_the_old_run_goes_on_if_it_is_named(run_dir):
    new = {**SAVING, "max_steps": 6}
    make_trainer(run_dir, make_model(seed=5), callbacks=[AtStep(1, stop)], **new).train()
    make_trainer(run_dir, make_model(), callbacks=[AtStep(5, stop)], **new).train(
        resume_from_checkpoint=str(run_dir / "checkpoint-4")
    )
    assert names(run_dir) == ["checkpoint-2", "checkpoint-4"]
    trainer = make_trainer(run_dir, make_model(), **new)
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 2


def test_a_run_from_an_earlier_checkpoint_leaves_the_later_ones_behind(run_dir):
    """They were trained at another rate."""
    other = {**SAVING, "learning_rate": 0.03}
    with pytest.warns(UserWarning, match="`learning_rate` was 0.01 and is 0.03"):
        make_trainer(run_dir, make_model(), callbacks=[AtStep(3, stop)], **other).train(
            resume_from_checkpoint=str(run_dir / "checkpoint-2")
        )
    found = json.loads((run_dir / _run_folder.RUN).read_text())
    assert list(found["ancestors"].values()) == [2]
    trainer = make_trainer(run_dir, make_model(), **other)
    with (
        pytest.warns(UserWarning, match="checkpoint-4 is not of the run that was started last"),
        pytest.warns(UserWarning, match="`learning_rate` was 0.01 and is 0.03"),
    ):
        trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 2
    assert not (run_dir / _run_folder.RUN).exists()


def test_checkpoints_of_an_earlier_version_go_on(run_dir):
    for folder in run_dir.iterdir():
        content = json.loads((folder / "checkpoint.json").read_text())
        del content["settings"]["run"], content["checksum"]
        (folder / "checkpoint.json").write_text(json.dumps(content))
    given = {**SAVING, "max_steps": 6}
    make_trainer(run_dir, make_model(), callbacks=[AtStep(5, stop)], **given).train(
        resume_from_checkpoint=True
    )
    trainer = make_trainer(run_dir, make_model(), **given)
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 2


def train_twice(rank, folder, what):
    """A run of two processes that is resumed with something else, on one of them or on both."""
    given = {**SAVING, "max_steps": 2, "ddp_backend": "gloo", "ddp_timeout": 30}
    make_trainer(folder, make_model(), **given).train()
    _run_folder.PATIENCE = 0.0

    lock = _run_lock.RunLock(Path(folder), 0.0)
    if what == "held" and rank == 0:
        assert lock.acquire() is None
    if what == "data":
        given["train_dataset"] = texts(5)
    make_trainer(folder, make_model(), **given).train(resume_from_checkpoint=True)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("what", "said"), [("held", "one run at a time"), ("data", "content of the train data of")]
)
def test_all_processes_are_refused_together(tmp_path, what, said):
    given = (str(tmp_path / "run"), what)
    codes, errors = outcome(tmp_path, train_twice, [given] * 2)
    assert codes == [1, 1], errors
    assert all(said in error for error in errors), errors

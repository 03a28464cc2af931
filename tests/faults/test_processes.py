"""Faults of one process of two, and of a program: an exit code that is not 0, one clear error, and
no hang.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from hf_meta_adapters.training import _checkpoint_seal as seals
from hf_meta_adapters.training._lost_process import is_lost_process
from tests.processes import LIMIT, outcome
from tests.training import Recorder, make_model, make_trainer

ROOT = Path(__file__).resolve().parents[2]


class Faulty(Recorder):
    """What happens in the third step, or the second save, to one of the processes."""

    fault = ""

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step == 2:
            if self.fault == "dies":
                os._exit(9)
            if self.fault == "non-finite":
                for batch in inputs["train"].values():
                    batch["labels"].fill_(-100)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return (
            loss * float("nan")
            if self.fault == "non-finite" and self.state.global_step == 2
            else loss
        )

    def _save(self, output_dir=None, state_dict=None):
        if self.fault == "full disk" and self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        return super()._save(output_dir, state_dict)


def train(rank, folder, fault):
    given = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "ddp_backend": "gloo",
        "ddp_timeout": 30,
    }
    trainer = make_trainer(folder, make_model(), kind=Faulty, **given)
    trainer.fault = fault
    trainer.train()


def outcome_of(tmp_path, faults):
    """The exit codes and errors of two processes with a fault each."""
    return outcome(tmp_path, train, [(str(tmp_path / "run"), fault) for fault in faults])


@pytest.mark.distributed
def test_a_process_that_dies_ends_the_others(tmp_path):
    codes, errors = outcome_of(tmp_path, ("", "dies"))
    assert codes == [1, 9], errors
    assert errors[0].startswith(
        "MetaAdapterError: All 2 processes must stay alive until the end."
        " Found one lost after 2 steps"
    )
    assert f"The last checkpoint is {tmp_path / 'run' / 'checkpoint-2'}." in errors[0]
    assert seals.read_seal(tmp_path / "run" / "checkpoint-2")["step"] == 2


def lose(rank, how):
    """A sum over two processes, in which the second does not take part."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=2))
    torch.distributed.barrier()
    if rank == 1:
        if how == "dies":
            os._exit(9)
        time.sleep(6)
        os._exit(0)
    with pytest.raises(RuntimeError) as caught:
        torch.distributed.all_reduce(torch.ones(3))
    assert is_lost_process(caught.value), caught.value


@pytest.mark.distributed
@pytest.mark.parametrize(("how", "code"), [("dies", 9), ("hangs", 0)])
def test_what_gloo_says_of_a_lost_process_is_known(tmp_path, how, code):
    """It has no type of its own: where torch changes the words, `_lost_process` must learn them."""
    codes, errors = outcome(tmp_path, lose, [(how,)] * 2)
    assert codes == [0, code], errors


def test_other_errors_are_no_lost_process():
    for words in (
        "CUDA out of memory. Tried to allocate",
        "Expected all tensors to be on the same",
    ):
        assert not is_lost_process(RuntimeError(words))


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_not_finite_on_one_process_stops_both(tmp_path, rank):
    codes, errors = outcome_of(
        tmp_path, ["non-finite" if rank == mine else "" for mine in range(2)]
    )
    assert codes == [1, 1], errors
    for error in errors:
        assert error.startswith(
            "NonFiniteLossError: Losses and gradients must be finite. Found NaN or infinity in the"
        )
        assert "after 2 steps; no weight was updated" in error
    assert seals.read_seal(tmp_path / "run" / "checkpoint-2")["step"] == 2


@pytest.mark.distributed
def test_a_disk_that_is_full_for_one_process_stops_both(tmp_path):
    codes, errors = outcome_of(tmp_path, ("full disk", ""))
    assert codes == [1, 1], errors
    assert "No space left on device" in errors[0]
    assert "another process failed" in errors[1]
    for error in errors:
        assert error.startswith("CheckpointError: A checkpoint must be written completely.")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-2"}


PROGRAMS = {
    "nothing to resume": (
        ["--resume", "true"],
        "A run can only be resumed from a checkpoint. Found none",
    ),
    "an unknown setting": (["--config", "bad.yaml"], "A setting must be one of the recipe"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_ends_with_one_clear_error(tmp_path, what):
    given, said = PROGRAMS[what]
    (tmp_path / "bad.yaml").write_text("learning_speed: 3\n")
    sizes = [
        "--languages",
        "en",
        "sw",
        "--limit",
        "30",
        "--vocabulary",
        "300",
        "--max_length",
        "24",
    ]
    command = [
        sys.executable,
        str(ROOT / "recipes" / "pretrain_clm.py"),
        "--model_type",
        "gpt2",
        *sizes,
    ]
    command += [
        "--data",
        str(ROOT / "recipes" / "data"),
        "--output_dir",
        "run",
        "--report_to",
        "none",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [*command, "--max_steps", "1", *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert found.returncode == 1
    assert said in found.stderr.strip().splitlines()[-1]

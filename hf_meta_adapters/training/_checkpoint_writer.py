"""Writing checkpoints from all processes together: each is whole, or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._checkpoint_folders import (
    UNFINISHED,
    commit,
    discard,
    last_checkpoint,
    rotate,
)
from hf_meta_adapters.training._checkpoint_seal import CheckpointRecord, seal

# Full disks and missing permissions come as all of them.
_WRITING = (OSError, RuntimeError, SafetensorError)


class CheckpointWriter:
    """Writes checkpoints next to their place and renames them when they are complete.

    If one process cannot write its part, all of them stop with a `CheckpointError`, and the
    checkpoints from before stay untouched.

    Args:
        args: The arguments of the run.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args

    def write(
        self,
        run_dir: Path,
        state: TrainerState,
        parts: Sequence[Callable[[Path], None]],
        record: Callable[[], CheckpointRecord],
    ) -> Path:
        """Write a checkpoint. All processes call it together.

        Args:
            run_dir: The folder of the run.
            state: The state of the Trainer. `trainer_state.json` is written from it, after its
                best checkpoint has been given the path that it will have.
            parts: Called with the unfinished folder, one after the other; each writes a part.
            record: Makes the record for the seal, in the processes that write it.

        Returns:
            The place of the checkpoint.

        Raises:
            CheckpointError: If a process could not write its part.
        """
        place = run_dir / f"checkpoint-{state.global_step}"
        folder = run_dir / UNFINISHED / place.name

        try:
            for part in parts:
                self._all_or_none(place, partial(part, folder))

            # The first process of all, then the first of each machine: where machines have disks
            # of their own, the folder is still there for the second.
            for process in (self._args.process_index, self._args.local_process_index):
                finish = partial(self._finish, process == 0, folder, state, record)
                self._all_or_none(place, finish)
        except CheckpointError:
            if self._args.should_save:
                discard(run_dir)
            raise

        return place

    def _finish(
        self,
        is_first: bool,
        folder: Path,
        state: TrainerState,
        record: Callable[[], CheckpointRecord],
    ) -> None:
        """Seal a checkpoint, move it to its place, and delete surplus ones."""
        if not is_first or not folder.is_dir():
            return

        run_dir = folder.parent.parent
        best = run_dir / f"checkpoint-{state.best_global_step}"
        if state.best_global_step == state.global_step or best.is_dir():
            state.best_model_checkpoint = str(best)
        state.save_to_json(str(folder / "trainer_state.json"))

        # FSDP writes the weights a second time, in a format that only it reads.
        for path in folder.glob("pytorch_model_fsdp*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

        seal(folder, record(), whole=self._args.should_save)
        keep = {commit(folder, run_dir)}

        if state.best_model_checkpoint is not None:
            keep.add(Path(state.best_model_checkpoint))
        rotate(run_dir, self._args.save_total_limit, keep)

    def _all_or_none(self, place: Path, work: Callable[[], None]) -> None:
        """Do some writing, and stop on all processes if one of them failed."""
        error: Exception | None = None
        try:
            work()
        except _WRITING as caught:
            # Closing a file fails a second time on a full disk, and torch reports that failure,
            # without its reason: the first one is in its context.
            error = caught
            if isinstance(caught.__context__, OSError):
                error = caught.__context__

        failed = torch.tensor(float(error is not None), device=self._args.device)
        if self._args.world_size > 1:
            torch.distributed.all_reduce(failed)

        if failed:
            raise CheckpointError(
                f"A checkpoint must be written completely. Found, at {place}:"
                f" {error or 'another process failed'}."
                f" {last_checkpoint(Path(str(self._args.output_dir)))} Free some space"
                " (`save_total_limit=2` keeps two checkpoints) or choose another `output_dir`, and"
                " resume."
            ) from error


def record_callbacks(state: TrainerState, callbacks: Iterable[object]) -> None:
    """Put what callbacks have to remember into the state of the Trainer, as transformers does.

    Args:
        state: The state, which becomes `trainer_state.json`.
        callbacks: The callbacks, and the control object of the Trainer.
    """
    for callback in callbacks:
        if not isinstance(callback, ExportableState):
            continue

        name = type(callback).__name__
        if isinstance(state.stateful_callbacks[name], list):  # several of one class
            state.stateful_callbacks[name].append(callback.state())
        else:
            state.stateful_callbacks[name] = callback.state()

"""A `transformers.Trainer` whose checkpoints are whole or absent, and whose resumed runs are the same run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback

from hf_meta_adapters.errors import CheckpointError, MetaAdapterError
from hf_meta_adapters.steps.sharding import gathered, without_head
from hf_meta_adapters.training import _checkpoints as files
from hf_meta_adapters.training._batch_check import check_weights
from hf_meta_adapters.training._progress import Progress

_WRITING = (
    OSError,
    RuntimeError,
    SafetensorError,
)  # full disks and lost rights come as all of them
_LOST = re.compile(
    "connection (closed|reset|refused)|timed? ?out|broken pipe|aborted", re.IGNORECASE
)
_READING = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError)


class ResumableTrainer(Trainer):
    """Writes checkpoints beside their place and renames them; resumes from what is whole and of the same run.

    What a checkpoint holds is that of `transformers.Trainer`, and in `checkpoint.json` the sizes
    and checksums of its files, the settings that a resumed run must have too, and how far the run
    had come.
    """

    _saving = False
    is_fsdp_enabled: bool
    _resumed: Mapping[str, Any] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.progress = Progress()
        """Rows seen of each language, steps skipped."""
        super().__init__(*args, **kwargs)

    def run_settings(self) -> dict[str, Any]:
        """What must be the same in a resumed run, JSON: what is read in which order."""
        raise NotImplementedError

    def expected_examples(self, step: int) -> dict[Any, dict[str, int]]:
        """Role → language → rows that a run has read after so many optimizer steps."""
        raise NotImplementedError

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: The folder of a checkpoint, or `True` for the newest in
                `output_dir` that is complete and undamaged; a warning names those that are not.
            *args: As in `transformers.Trainer`.
            **kwargs: As there.

        Returns:
            As there: steps, mean loss, and metrics.

        Raises:
            CheckpointError: If the checkpoint is damaged, or of another run. Nothing has been
                changed then.
        """
        run_dir = Path(str(self.args.output_dir))
        if self.args.should_save:
            files.discard(run_dir)
        self.accelerator.wait_for_everyone()
        folder: str | None = None
        if resume_from_checkpoint:
            folder = str(self._whole(run_dir, resume_from_checkpoint))
        try:
            with without_head(self.model) if self.is_fsdp_enabled else nullcontext():
                return super().train(folder, *args, **kwargs)
        except RuntimeError as error:
            if self.args.world_size > 1 and _LOST.search(str(error)):
                raise MetaAdapterError(self._lost(error)) from error
            raise

    def _lost(self, error: Exception) -> str:
        complete = files.checkpoints(Path(str(self.args.output_dir)))
        kept = (
            f"The last checkpoint is {complete[-1]}."
            if complete
            else "No checkpoint was saved yet."
        )
        return (
            f"All {self.args.world_size} processes must live until the end. Found one lost after"
            f" {self.state.global_step} steps: {' '.join(str(error).split())} {kept} Look at what"
            " the lost process said, and start all of them again with"
            " `resume_from_checkpoint=True`."
        )

    def _whole(self, run_dir: Path, wanted: str | bool) -> Path:
        """The checkpoint to resume from, after all checks that need no model."""
        if wanted is True:
            folder, wrong = files.newest(run_dir)
            if wrong:
                warnings.warn(
                    f"The run goes on from {folder}, the newest checkpoint. {' '.join(wrong)}",
                    stacklevel=3,
                )
        else:
            folder = Path(str(wanted))
        self._resumed = files.read_seal(folder)
        if self._resumed.get("model_only"):
            raise CheckpointError(
                "A run can only go on from a checkpoint that holds its optimizer. Found in"
                f" {folder} one of `save_only_model=True`. Begin a new run from its weights:"
                " `model.load_weights(...)`."
            )
        self._compare(folder, self._resumed["settings"], self.run_settings())
        return folder

    def _compare(
        self, folder: Path | str, saved: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        wrong = [
            f"`{name}` was {saved.get(name)!r} and is {own.get(name)!r}"
            for name in sorted({*saved, *own})
            if saved.get(name) != own.get(name)
        ]
        if wrong:
            raise CheckpointError(
                f"A resumed run must be the run that was interrupted. Found, beside {folder}:"
                f" {'; '.join(wrong)}. Write what it was, or begin a new run from its weights:"
                " `model.load_weights(...)`."
            )

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # transformers 4 would take it from the checkpoint, whose processes may have been more or
        # fewer
        if not self.args.auto_find_batch_size:
            batch_size = self.args.train_batch_size
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self._compare(checkpoint, self._resumed["optimizer"], self._optimizer_settings())
        files.know_numbered_cpus()
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except _READING as error:
            raise CheckpointError(
                "A checkpoint must hold the state of this optimizer and schedule. Found in"
                f" {checkpoint} another one: {error}. Give the Trainer the optimizer that it was"
                " saved with."
            ) from error
        self.progress.load_state_dict(self._resumed["progress"])
        if not self.args.ignore_data_skip:
            expected = self.expected_examples(self._resumed["step"])
            self._compare(
                checkpoint,
                {"examples_seen": self.progress.examples_seen},
                {"examples_seen": expected},
            )

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.paused():
            return super()._evaluate(*args, **kwargs)

    def _optimizer_settings(self) -> dict[str, Any]:
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        sizes = [[list(p.shape) for p in group["params"]] for group in inner.param_groups]
        sharded = {"sharded": True} if self.is_fsdp_enabled else {}
        return {"optimizer": type(inner).__name__, "parameters": sizes, **sharded}

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, files.UNFINISHED) if self._saving else run_dir

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        place = run_dir / f"checkpoint-{self.state.global_step}"
        folder = run_dir / files.UNFINISHED / place.name
        with self.progress.paused():
            try:
                self._saving = True
                self._together(
                    place, lambda: super(ResumableTrainer, self)._save_checkpoint(model, trial)
                )
                self._together(
                    place, lambda: self._finish(folder, run_dir, self.is_world_process_zero())
                )
                # on a machine with a disk of its own
                self._together(
                    place, lambda: self._finish(folder, run_dir, self.is_local_process_zero())
                )
            except CheckpointError:
                if self.args.should_save:
                    files.discard(run_dir)
                raise
            finally:
                self._saving = False
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model, as in `transformers.Trainer`."""
        with gathered(self.accelerator.unwrap_model(self.model), here=self.args.should_save):
            if not self._saving:
                return self._write_model(output_dir, _internal_call)
            # before `transformers.Trainer` waits for the other processes, which would wait for ever
            return self._together(output_dir, lambda: self._write_model(output_dir, _internal_call))

    def _write_model(self, output_dir: str | None, _internal_call: bool) -> None:
        sharded: bool = self.is_fsdp_enabled
        self.is_fsdp_enabled = (
            False  # weights are whole here; it would write them in a format of its own
        )
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self.is_fsdp_enabled = sharded

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saving:  # it has no place yet
            super()._push_from_checkpoint(checkpoint_folder)

    def _finish(self, folder: Path, run_dir: Path, mine: bool) -> None:
        """Seal a checkpoint, move it to its place, and delete what is too many."""
        if not mine or not folder.is_dir():
            return
        best = os.path.join(run_dir, f"checkpoint-{self.state.best_global_step}")
        if self.state.best_global_step == self.state.global_step or os.path.isdir(best):
            self.state.best_model_checkpoint = best
        self.state.save_to_json(str(folder / "trainer_state.json"))
        files.remove(
            folder, "pytorch_model_fsdp*"
        )  # the weights once more, in a format of the library's own
        content = {
            "step": self.state.global_step,
            "model_only": bool(self.args.save_only_model),
            "settings": self.run_settings(),
            "optimizer": self._optimizer_settings(),
            "progress": self.progress.state_dict(),
        }
        files.seal(folder, content)
        keep = {files.commit(folder, run_dir)}
        if self.state.best_model_checkpoint is not None:
            keep.add(Path(self.state.best_model_checkpoint))
        files.rotate(run_dir, self.args.save_total_limit, keep)

    def _together(self, place: Path | str | None, work: Any) -> None:
        """Write something, and stop on all processes if one of them cannot."""
        error: Exception | None = None
        try:
            work()
        except _WRITING as caught:
            # torch says of a file that could not be closed no more than where it was
            error = caught.__context__ if isinstance(caught.__context__, OSError) else caught
        failed = torch.tensor(float(error is not None), device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(failed)
        if failed:
            complete = files.checkpoints(Path(str(self.args.output_dir)))
            kept = (
                f"The last checkpoint, {complete[-1]}, is as it was."
                if complete
                else "There is no checkpoint yet."
            )
            raise CheckpointError(
                f"A checkpoint must be written as a whole. Found, at {place}:"
                f" {error or 'another process failed'}. {kept} Make room for it"
                " (`save_total_limit=2` keeps two), or write to another `output_dir`, and resume."
            ) from error


class KeepPosition(TrainerCallback):
    """Begins a run and its epochs: counts from zero, tells the sampler which epoch, forgets half-taken steps."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the rows of this run, unless it goes on from a checkpoint, whose counts were read."""
        check_weights(self._trainer._model)
        if state.global_step == 0 and self._trainer._sampler is not None:
            self._trainer.progress.begin(self._trainer.expected_examples(0))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the epoch from the number of steps taken, which is exact after a resume too."""
        self._trainer._micro_batches.clear()
        sampler = self._trainer._sampler
        if sampler is not None:
            sampler.set_epoch(state.global_step * args.gradient_accumulation_steps // len(sampler))

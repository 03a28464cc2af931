"""The callback that keeps a run's position in its data: counts, epoch, and micro-batches."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.training._progress import Progress
from hf_meta_adapters.training._same_run import check_same_run


class KeepPosition(TrainerCallback):
    """Begins runs and epochs at the right row, resumed or not.

    Args:
        progress: The counts of the run; begun, or compared with the position after a resume.
        micro_batches: Those of the optimizer step at hand; emptied where a run was stopped between
            them.
        catch_up: Called at the position of the checkpoint, for what was due there and not done.
    """

    def __init__(
        self,
        progress: Progress,
        micro_batches: list[StepBatch],
        catch_up: Callable[[], None],
    ) -> None:
        self._progress = progress
        self._micro_batches = micro_batches
        self._catch_up = catch_up

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        train_dataloader: DataLoader[object],
        **_: object,
    ) -> None:
        """Begin the counts of a new run; check those of a resumed one, which were read already.

        Raises:
            CheckpointError: If the checkpoint's counts are not those of its step.
        """
        # A loader of a subclass has a position that nobody here knows.
        sampler = train_dataloader.batch_sampler
        if isinstance(sampler, LanguageBatchSampler):
            self._begin(args, state, sampler)

        self._catch_up()

    def _begin(
        self, args: TrainingArguments, state: TrainerState, sampler: LanguageBatchSampler
    ) -> None:
        # The sampler is a function of seed and position, so the step alone says what was read. A
        # checkpoint with other counts was read by another sampler.
        steps_per_epoch = len(sampler) // args.gradient_accumulation_steps
        expected = sampler.examples_seen(*divmod(state.global_step, steps_per_epoch))

        if state.global_step == 0:
            self._progress.begin(expected)
        elif not args.ignore_data_skip:
            check_same_run(
                f"the checkpoint of step {state.global_step}",
                {"examples_seen": self._progress.examples_seen},
                {"examples_seen": expected},
            )

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        train_dataloader: DataLoader[object],
        **_: object,
    ) -> None:
        """Set the epoch from the number of steps taken, which is exact after a resume as well."""
        # Some are left where a run was stopped in the middle of an optimizer step.
        self._micro_batches.clear()

        sampler = train_dataloader.batch_sampler
        if isinstance(sampler, LanguageBatchSampler):
            micro_steps = state.global_step * args.gradient_accumulation_steps
            sampler.set_epoch(micro_steps // len(sampler))

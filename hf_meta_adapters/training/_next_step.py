"""The outer step of a Trainer that looks ahead to the next step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.steps.compared_next_step import compared_next_step
from hf_meta_adapters.steps.kept_state import KeptState
from hf_meta_adapters.steps.next_step import next_step
from hf_meta_adapters.steps.step_context import StepContext
from hf_meta_adapters.training._kept_step_file import read_kept_state, write_kept_state
from hf_meta_adapters.training._optimizer_groups import unwrapped
from hf_meta_adapters.training._pass_size import PassSize
from hf_meta_adapters.training._sampled_rows import SampledRows
from hf_meta_adapters.training._step_at_hand import Evaluation, StepAtHand
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NextStep:
    """Takes the steps of a run, each with what was kept of the one before.

    Args:
        args: The arguments.
        rows: The share of the rows in mixed products.
        passes: How many languages share a pass.
        sharded: Whether parameters are divided among processes (FSDP2).
    """

    def __init__(
        self,
        args: MetaAdapterTrainingArguments,
        rows: SampledRows,
        passes: PassSize,
        *,
        sharded: bool,
    ) -> None:
        self._args = args
        self._rows, self._passes = rows, passes
        self._sharded = sharded
        self._kept: KeptStep | None = None
        self._kept_share = 1.0  # of the rows, in its sample
        self._kept_size = 1  # of its passes, in languages
        self._batches: Mapping[Language, Sequence[Batch]] = {}
        self._saved: KeptState | None = None
        self._lacks_saved = False

    def __call__(self, step: StepAtHand, **evaluation: Unpack[Evaluation]) -> MetaGradients:
        """Compute the gradients of a step.

        Args:
            step: The step at hand.
            **evaluation: How losses are evaluated.

        Returns:
            The gradients. Between the steps of `meta_every`, the indirect part is absent.
        """
        kept = self._taken_up(step, **evaluation)
        self.forget()
        self._warn_if_lacking(step.number)
        if step.number % self._args.meta_every:
            kept = None

        gradients, share = self._gradients(step, kept, **evaluation)

        # What the next step does not ask for needs no memory.
        if (step.number + 1) % self._args.meta_every == 0:
            self._kept, self._batches = gradients.kept, step.batches["train"]
            self._kept_share, self._kept_size = share, self._passes.size
        return replace(gradients, kept=None)

    def forget(self) -> None:
        """Drop what was kept."""
        self._kept, self._batches = None, {}

    def save(self, folder: Path) -> None:
        """Write what was kept of the last step to a checkpoint."""
        if self._kept is not None and self._kept.derivative is not None:
            state = KeptState.of(self._kept, self._batches, self._kept_share, self._kept_size)
            write_kept_state(folder, self._args.process_index, state, sharded=self._sharded)

    def load(self, folder: Path) -> None:
        """Read what a checkpoint kept of its last step; the next call takes it up."""
        self._saved = read_kept_state(folder, self._args.process_index, self._args.world_size)
        self._lacks_saved = self._saved is None

    def _gradients(
        self, step: StepAtHand, kept: KeptStep | None, **evaluation: Unpack[Evaluation]
    ) -> tuple[MetaGradients, float]:
        """The gradients of a step, and the share of the rows in the sample that is kept of it."""
        options, rows = self._args.meta_options(), self._rows
        samples = None if kept is None else kept.of_samples()
        optimizer = unwrapped(step.optimizer)

        # The products are those of the rows of the step before, which keeps them for it.
        compares = samples is not None and rows.is_due(step.number)
        if not compares and samples is not None and rows.share < 1:
            kept = samples

        if compares or rows.is_due(step.number + 1):
            share = rows.candidate
            gradients, agreement = compared_next_step(
                step.model,
                step.batches["train"],
                optimizer=optimizer,
                kept=kept,
                **evaluation,
                **asdict(replace(options, mixed_rows=share)),
            )
            if compares:
                rows.note(agreement)
            return gradients, share

        share = rows.share
        gradients = next_step(
            step.model,
            step.batches["train"],
            optimizer=optimizer,
            kept=kept,
            languages_per_pass=self._passes.size,
            seed=step.drawing_seed(self._args.seed),
            **evaluation,
            **asdict(replace(options, mixed_rows=share)),
        )
        return gradients, share

    def _warn_if_lacking(self, number: int) -> None:
        """Say so if the first step after a checkpoint would have had an indirect part."""
        lacks, self._lacks_saved = self._lacks_saved, False
        if lacks and number % self._args.meta_every == 0:
            warnings.warn(
                f"Step {number + 1} has no indirect part: the checkpoint holds nothing of the step"
                " before it. Such rows are not published, and none are kept of a step that was"
                " skipped.",
                stacklevel=2,
            )

    def _taken_up(self, step: StepAtHand, **evaluation: Unpack[Evaluation]) -> KeptStep | None:
        """What was kept of the step before, in this process or in a checkpoint."""
        saved, self._saved = self._saved, None
        if saved is None:
            return self._kept

        # Here, and not when it is read: the losses are evaluated as this step's are.
        context = StepContext(**evaluation)
        return saved.restored(
            step.model,
            context,
            self._passes.size,
            self._args.meta_options().mixed_rows,
        )

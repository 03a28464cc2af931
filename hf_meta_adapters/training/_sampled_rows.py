"""The share of the training rows in mixed products in a Trainer: given, or chosen as it trains."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hf_meta_adapters._typing import AllReduce
from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.meta.sample_agreement import SampleAgreement
from hf_meta_adapters.meta.sample_share import SampleShare
from hf_meta_adapters.training._sample_arguments import AUTO
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

SAMPLED_ROWS = "sampled_rows.json"

_EVERY = 100
"""Meta steps from one comparison to the next: one costs a step or two, and all of them 1 to 2 %.
The first ones follow at 1, 2, 4, … 64: in the beginning the gradient changes most.
"""


class SampledRows:
    """The share of a run, one step after the other.

    Args:
        args: The arguments.
        takes_meta: Whether φ is updated by meta-gradients.
    """

    def __init__(self, args: MetaAdapterTrainingArguments, *, takes_meta: bool) -> None:
        self._given = args.meta_options().mixed_rows
        self._meta_every = args.meta_every
        self._choice: SampleShare | None = None
        if takes_meta and args.mixed_rows == AUTO:
            self._choice = SampleShare()
        self._noted: SampleAgreement | None = None

    @property
    def share(self) -> float:
        """The share in use."""
        return self._given if self._choice is None else self._choice.share

    @property
    def candidate(self) -> float:
        """The share of the sample that is compared with all rows."""
        return self._given if self._choice is None else self._choice.candidate

    def is_due(self, step: int) -> bool:
        """Whether a step is to be compared.

        Args:
            step: The number of steps taken before.
        """
        number, between = divmod(step, self._meta_every)
        if self._choice is None or between or number == 0:
            return False

        is_power_of_two = number & (number - 1) == 0
        return number % _EVERY == 0 or (number < _EVERY and is_power_of_two)

    def note(self, agreement: SampleAgreement | None) -> None:
        """Keep what was measured, or a part of it, until the step is complete."""
        # Alternating updates take it language by language.
        if agreement is not None and self._noted is not None:
            agreement = self._noted + agreement
        self._noted = agreement or self._noted

    def forget(self) -> None:
        """Drop what was noted of a step that is not taken."""
        self._noted = None

    def learn(self, all_reduce: AllReduce | None) -> dict[str, float]:
        """Choose the share of the next steps, now that a step is complete.

        Args:
            all_reduce: Sums over processes in place: all of them choose the same.

        Returns:
            The entries of the log.
        """
        if self._choice is None:
            return {}

        logs = {}
        if self._noted is not None:
            cosine = self._noted.cosine(all_reduce)
            self._choice.observe(cosine, self._noted.odds)
            if math.isfinite(cosine):
                logs["mixed_rows_cosine"] = cosine

        self.forget()
        return {"mixed_rows": self._choice.share, **logs}

    def save(self, folder: Path) -> None:
        """Write what the next steps depend on to a checkpoint; it is the same on all processes."""
        if self._choice is not None:
            (folder / SAMPLED_ROWS).write_text(json.dumps(self._choice.state()), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what a checkpoint holds.

        Args:
            folder: The folder of the checkpoint.

        Raises:
            CheckpointError: If it holds nothing that fits.
        """
        if self._choice is None:
            return

        path = folder / SAMPLED_ROWS
        try:
            self._choice.load_state(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                '`mixed_rows="auto"` goes on from the noise that was measured before. Found none'
                f" that fits in {path}: {error!r}. Resume from an earlier checkpoint, or start a"
                " new run from its weights: `model.load_weights(...)`."
            ) from error

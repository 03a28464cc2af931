"""Where the time of a Trainer goes: its start, its batches, its steps, its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

__all__ = ["TrainingClock"]


class TrainingClock(TrainerCallback):
    """Takes the processor time of the parts of training.

    A batch is what passes between the end of a step and the beginning of the next one: loading,
    collation, and what the Trainer does between steps.

    Args:
        at_first_step: Called when the first step begins.
        after_saving: Called after each checkpoint.
    """

    def __init__(
        self,
        at_first_step: Callable[[], object] = lambda: None,
        after_saving: Callable[[], object] = lambda: None,
    ) -> None:
        self._at_first_step = at_first_step
        self._after_saving = after_saving
        self._then = 0.0

        self.first_step: float | None = None
        """When the first step began, on the clock of `time.process_time`."""
        self.batches: list[float] = []
        """Seconds before each step but the first one."""
        self.steps: list[float] = []
        """Seconds of each step."""
        self.checkpoints: list[float] = []
        """Seconds of each checkpoint."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A batch is there."""
        now = time.process_time()
        if self.first_step is None:
            self.first_step = now
            self._at_first_step()
        else:
            self.batches.append(now - self._then)
        self._then = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step is taken."""
        now = time.process_time()
        self.steps.append(now - self._then)
        self._then = now

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint is written."""
        self.checkpoints.append(time.process_time() - self._then)
        self._after_saving()
        self._then = time.process_time()

"""How far a training run has come: rows of each language that were read, steps that were skipped, and its speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hf_meta_adapters._typing import Language


class Progress:
    """Counts over a whole run, resumed ones included, and the speed since the last log line."""

    def __init__(self) -> None:
        self.nonfinite_steps = 0
        """Steps that were skipped since a loss or a gradient was not finite."""
        self.overflow_steps = 0
        """Steps that were left out since the loss scale of fp16 was too large."""
        self._seen: dict[str, Counter[Language]] = {}
        self._rows = 0
        self._since = time.perf_counter()
        self._paused = 0.0

    def begin(self, examples_seen: Mapping[str, Mapping[Language, int]]) -> None:
        """Start anew from counts, as a rule of zero."""
        self.load_state_dict(
            {"examples_seen": examples_seen, "nonfinite_steps": 0, "overflow_steps": 0}
        )

    def add_step(
        self, languages: Mapping[Any, Iterable[Language]], rows: Mapping[Any, int]
    ) -> None:
        """Count an optimizer step.

        Args:
            languages: role → the languages of the step.
            rows: role → rows of each of them, over all processes and micro-steps.
        """
        for role, keys in languages.items():
            held = list(keys)
            self._seen.setdefault(role, Counter()).update(dict.fromkeys(held, rows[role]))
            self._rows += rows[role] * len(held) if role == "train" else 0

    @property
    def examples_seen(self) -> dict[str, dict[Language, int]]:
        """Role → language → rows read so far by all processes, each pass over a row counted."""
        return {role: dict(sorted(counts.items())) for role, counts in self._seen.items()}

    def logs(self) -> dict[str, float]:
        """What a training log says: rows of training text seen per language, and read per second since the last one."""
        now = time.perf_counter()
        seconds = now - self._since - self._paused
        found: dict[str, float] = {
            f"examples_seen_{key}": n for key, n in self.examples_seen.get("train", {}).items()
        }
        if seconds > 0:
            found["examples_per_second"] = self._rows / seconds
        if self.nonfinite_steps:
            found["nonfinite_steps"] = self.nonfinite_steps
        if self.overflow_steps:
            found["overflow_steps"] = self.overflow_steps
        self._rows, self._since, self._paused = 0, now, 0.0
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is none of training: evaluation, and the writing of checkpoints."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """The counts, JSON."""
        steps = {"nonfinite_steps": self.nonfinite_steps, "overflow_steps": self.overflow_steps}
        return {"examples_seen": self.examples_seen, **steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from counts that were saved."""
        self._seen = {role: Counter(counts) for role, counts in state["examples_seen"].items()}
        self.nonfinite_steps, self.overflow_steps = (
            state["nonfinite_steps"],
            state.get("overflow_steps", 0),
        )
        self._rows, self._since, self._paused = 0, time.perf_counter(), 0.0

"""How far a training run has come: rows read of each language, skipped steps, and speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class ProgressState(TypedDict):
    """The counts of a run as a checkpoint holds them, JSON.

    Attributes:
        examples_seen: role → language → rows read by all processes.
        nonfinite_steps: Steps skipped because a loss or a gradient was not finite.
        overflow_steps: Steps skipped because the loss scale of fp16 was too large.
        unlabeled_steps: role → language → steps in which it had no label in this role.
        labeled: role → the languages that have had a label in this role.
    """

    examples_seen: Mapping[Role, Mapping[Language, int]]
    nonfinite_steps: int
    overflow_steps: NotRequired[int]
    unlabeled_steps: NotRequired[Mapping[Role, Mapping[Language, int]]]
    labeled: NotRequired[Mapping[Role, list[Language]]]


class Progress:
    """Counts over a whole run, resumed parts included, and the speed since the last log line."""

    def __init__(self) -> None:
        self.nonfinite_steps = 0
        """Steps skipped because a loss or a gradient was not finite."""
        self.overflow_steps = 0
        """Steps skipped because the loss scale of fp16 was too large."""
        self._seen: dict[Role, Counter[Language]] = {}
        self._unlabeled: dict[Role, Counter[Language]] = {}
        self._labeled: dict[Role, set[Language]] = {}
        self._rows = 0
        self._since = time.perf_counter()
        self._paused = 0.0

    def begin(self, examples_seen: Mapping[Role, Mapping[Language, int]]) -> None:
        """Start anew from given counts, as a rule zeros."""
        self.load_state_dict(
            {"examples_seen": examples_seen, "nonfinite_steps": 0, "overflow_steps": 0}
        )

    def add_step(
        self, languages: Mapping[Role, Iterable[Language]], rows: Mapping[Role, int]
    ) -> None:
        """Count an optimizer step.

        Args:
            languages: role → the languages of the step.
            rows: role → rows of each of them, over all processes and micro-steps.
        """
        for role, keys in languages.items():
            present = list(keys)

            self._seen.setdefault(role, Counter()).update(dict.fromkeys(present, rows[role]))

            # Speed is that of training rows; meta rows come on top of the same steps.
            if role == "train":
                self._rows += rows[role] * len(present)

    def add_labels(
        self, role: Role, languages: Iterable[Language], without: Collection[Language]
    ) -> None:
        """Count a step in which some languages may have had no label.

        Args:
            role: The role.
            languages: The languages of the step.
            without: Those of them that had no label on any process.
        """
        labeled = {key for key in languages if key not in without}
        self._labeled.setdefault(role, set()).update(labeled)
        if without:
            self._unlabeled.setdefault(role, Counter()).update(without)

    def check_labels(self) -> None:
        """Check, at the end of a run, that no language went without a label in all of its steps.

        Raises:
            DataError: If one did.
        """
        for role, counts in self._unlabeled.items():
            never = sorted(set(counts) - self._labeled.get(role, set()))
            if never:
                steps = [counts[key] for key in never]
                raise DataError(
                    f"Every language needs a label in some step of a run. Found none in the {role}"
                    f" rows of {never}, in {steps} steps: nothing was learned from them. The"
                    " weights are those after the last step. Give these languages longer rows,"
                    " more of them in a batch, or a higher probability of a mask, or leave them"
                    " out."
                )

    @property
    def examples_seen(self) -> dict[Role, dict[Language, int]]:
        """Role → language → rows read so far by all processes; every pass over a row counts."""
        return {role: dict(sorted(counts.items())) for role, counts in self._seen.items()}

    def logs(self) -> dict[str, float]:
        """The entries of a log line: training rows seen per language, and rows read per second.

        The speed is that since the last call; pauses do not count.
        """
        now = time.perf_counter()
        seconds = now - self._since - self._paused

        trained = self.examples_seen.get("train", {})
        logs: dict[str, float] = {f"examples_seen_{key}": rows for key, rows in trained.items()}

        if seconds > 0:
            logs["examples_per_second"] = self._rows / seconds

        # Trouble is logged once there is some.
        if self.nonfinite_steps:
            logs["nonfinite_steps"] = self.nonfinite_steps
        if self.overflow_steps:
            logs["overflow_steps"] = self.overflow_steps

        for role, counts in self._unlabeled.items():
            prefix = "" if role == "train" else f"{role}_"
            logs.update({f"{prefix}unlabeled_steps_{key}": counts[key] for key in sorted(counts)})

        self._restart_clock(now)
        return logs

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is not training time: evaluation, and writing checkpoints."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def state_dict(self) -> ProgressState:
        """The counts, for a checkpoint."""
        return {
            "examples_seen": self.examples_seen,
            "nonfinite_steps": self.nonfinite_steps,
            "overflow_steps": self.overflow_steps,
            "unlabeled_steps": {role: dict(counts) for role, counts in self._unlabeled.items()},
            "labeled": {role: sorted(keys) for role, keys in self._labeled.items()},
        }

    def load_state_dict(self, state: ProgressState) -> None:
        """Continue from saved counts."""
        self._seen = {role: Counter(counts) for role, counts in state["examples_seen"].items()}
        self.nonfinite_steps = state["nonfinite_steps"]

        # Early checkpoints do not have the rest: their languages had a label in every step.
        self.overflow_steps = state.get("overflow_steps", 0)
        unlabeled = state.get("unlabeled_steps", {})
        self._unlabeled = {role: Counter(counts) for role, counts in unlabeled.items()}

        seen = {role: [*(+counts)] for role, counts in self._seen.items()}
        labeled = state.get("labeled", seen)
        self._labeled = {role: set(keys) for role, keys in labeled.items()}

        self._restart_clock(time.perf_counter())

    def _restart_clock(self, now: float) -> None:
        self._rows, self._since, self._paused = 0, now, 0.0

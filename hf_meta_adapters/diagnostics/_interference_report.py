"""The result of `interference_report`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Interference", "InterferenceReport"]


@dataclass(frozen=True)
class Interference:
    """What joint training costs one language on one task.

    Attributes:
        language: The language.
        task: The task, or `None` if scores were given without.
        monolingual: Mean score of the monolingual models.
        joint: Mean score of the joint models.
        difference: How much worse the joint model is; negative where it is better.
        low: Lower end of the interval of `difference`; NaN where there is a single score.
        high: Upper end.
    """

    language: Language
    task: str | None
    monolingual: float
    joint: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class InterferenceReport:
    """Interference of every language and task.

    Attributes:
        rows: One for each language and task.
        metric: What the scores are.
        confidence: Coverage of the intervals.
        examples_seen: Language → training examples seen by the (monolingual, joint) model, or
            `None` if not told.
    """

    rows: tuple[Interference, ...]
    metric: str
    confidence: float
    examples_seen: dict[Language, tuple[int, int]] | None = None

    @property
    def languages(self) -> tuple[Language, ...]:
        """The languages."""
        return tuple(dict.fromkeys(row.language for row in self.rows))

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The tasks; `(None,)` if scores were given without."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    def mean(self, task: str | None = None) -> float:
        """Return the mean difference over languages on one task.

        Args:
            task: The task.

        Returns:
            The mean; NaN for a task that no language has.
        """
        differences = [row.difference for row in self.rows if row.task == task]
        return sum(differences) / len(differences) if differences else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON; NaN becomes `None`."""
        rows = [asdict(row) for row in self.rows]
        return {
            "metric": self.metric,
            "confidence": self.confidence,
            "rows": [
                {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()}
                for r in rows
            ],
            "mean": {task or "": self.mean(task) for task in self.tasks},
            "examples_seen": (
                None
                if self.examples_seen is None
                else {k: list(v) for k, v in self.examples_seen.items()}
            ),
        }

    def to_markdown(self) -> str:
        """Return a Markdown table of the differences, and what they compare."""
        many = self.tasks != (None,)
        table = [
            [
                row.language,
                *([row.task or ""] if many else []),
                format_number(row.monolingual),
                format_number(row.joint),
                _with_interval(row),
            ]
            for row in self.rows
        ]
        for task in self.tasks:
            name = [task or ""] if many else []
            table.append(["mean", *name, "", "", format_number(self.mean(task), sign=True)])
        header = ["language", *(["task"] if many else []), "monolingual", "joint", "interference"]
        return f"{markdown_table(header, table)}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the differences as bars with their intervals.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        found = {(row.language, row.task): (row.difference, row.low, row.high) for row in self.rows}
        nothing = (math.nan, math.nan, math.nan)
        bars = {
            task or "": [found.get((language, task), nothing) for language in self.languages]
            for task in self.tasks
        }
        return plot_intervals(
            bars,
            self.languages,
            title="Interference: what joint training costs each language",
            ylabel=f"interference in {self.metric}\n(above 0: joint is worse)",
            path=path,
            ax=ax,
        )

    def _caption(self) -> str:
        text = f"Scores: {self.metric}. Interference above 0: the joint model is worse."
        if any(not math.isnan(row.low) for row in self.rows):
            text += f" In brackets: {self.confidence:.0%} paired bootstrap interval."
        unequal = {
            key: pair for key, pair in (self.examples_seen or {}).items() if pair[0] != pair[1]
        }
        if unequal:
            pairs = ", ".join(
                f"{key} {alone:,} / {together:,}" for key, (alone, together) in unequal.items()
            )
            text += f" UNEQUAL COMPUTE, examples seen by the monolingual / joint model: {pairs}."
        elif self.examples_seen is not None:
            text += " Both models saw as many examples of each language."
        return text


def _with_interval(row: Interference) -> str:
    value = format_number(row.difference, sign=True)
    if math.isnan(row.low):
        return value
    return f"{value} [{format_number(row.low, sign=True)}, {format_number(row.high, sign=True)}]"

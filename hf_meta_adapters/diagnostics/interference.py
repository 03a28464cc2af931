"""The result of `interference_report`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import (
    format_interval,
    format_number,
    markdown_table,
    none_if_nan,
)

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Interference", "InterferenceReport"]


@dataclass(frozen=True)
class Interference:
    """What joint training costs one language on one task.

    Attributes:
        language: The language.
        task: The task, or `None` for scores without tasks.
        monolingual: Mean score of the monolingual models.
        joint: Mean score of the joint models.
        difference: How much worse the joint model is; negative where it is better.
        low: Lower end of the interval of `difference`; NaN for a single score.
        high: Upper end.
    """

    language: Language
    task: str | None
    monolingual: float
    joint: float
    difference: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were enough scores for an interval."""
        return not math.isnan(self.low)


@dataclass(frozen=True)
class InterferenceReport:
    """Interference of every language and task.

    Attributes:
        rows: One for each language and task.
        metric: What the scores are.
        confidence: Coverage of the intervals.
        examples_seen: Language → training examples seen by the (monolingual, joint) model; `None`
            if they were not given.
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
        """The tasks; `(None,)` for scores without tasks."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    def mean(self, task: str | None = None) -> float:
        """Return the mean difference over languages on one task.

        Args:
            task: The task.

        Returns:
            The mean; NaN for a task that no language has.
        """
        differences = [row.difference for row in self.rows if row.task == task]
        if not differences:
            return math.nan

        return sum(differences) / len(differences)

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON, with `None` for NaN."""
        # Pairs become lists, as JSON has no tuples: what is read back equals what was written.
        examples_seen = None
        if self.examples_seen is not None:
            examples_seen = {language: list(pair) for language, pair in self.examples_seen.items()}

        return {
            "metric": self.metric,
            "confidence": self.confidence,
            "rows": [_as_json(row) for row in self.rows],
            "mean": {task or "": self.mean(task) for task in self.tasks},
            "examples_seen": examples_seen,
        }

    def to_markdown(self) -> str:
        """Return a Markdown table of the differences, and what they compare."""
        header = ["language", "task", "monolingual", "joint", "interference"]
        lines = [
            [
                row.language,
                row.task or "",
                format_number(row.monolingual),
                format_number(row.joint),
                _difference_with_interval(row),
            ]
            for row in self.rows
        ]
        lines += [
            ["mean", task or "", "", "", format_number(self.mean(task), sign=True)]
            for task in self.tasks
        ]

        if self.tasks == (None,):  # the column of the tasks would be empty
            header, *lines = [[line[0], *line[2:]] for line in (header, *lines)]
        return f"{markdown_table(header, lines)}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the differences as bars with their intervals.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        bars = {(row.task, row.language): (row.difference, row.low, row.high) for row in self.rows}

        # A language without the task keeps its place, with no bar.
        nothing = (math.nan, math.nan, math.nan)
        groups: dict[str, list[tuple[float, float, float]]] = {}
        for task in self.tasks:
            groups[task or ""] = [bars.get((task, key), nothing) for key in self.languages]

        return plot_intervals(
            groups,
            self.languages,
            title="Interference: what joint training costs each language",
            ylabel=f"interference in {self.metric}\n(above 0: joint is worse)",
            path=path,
            ax=ax,
        )

    def _caption(self) -> str:
        sentences = [f"Scores: {self.metric}. Interference above 0: the joint model is worse."]
        if any(row.has_interval for row in self.rows):
            sentences.append(f"In brackets: {self.confidence:.0%} paired bootstrap interval.")

        if self.examples_seen is not None:
            sentences.append(_compute_sentence(self.examples_seen))
        return " ".join(sentences)


def _as_json(row: Interference) -> dict[str, object]:
    fields = asdict(row)
    for name in ("monolingual", "joint", "difference", "low", "high"):
        fields[name] = none_if_nan(fields[name])

    return fields


def _difference_with_interval(row: Interference) -> str:
    if row.has_interval:
        return format_interval(row.difference, row.low, row.high, sign=True)

    return format_number(row.difference, sign=True)


def _compute_sentence(examples_seen: dict[Language, tuple[int, int]]) -> str:
    """Return whether the two models saw as much of each language, which decides what they show."""
    unequal = [
        f"{language} {alone:,} / {together:,}"
        for language, (alone, together) in examples_seen.items()
        if alone != together
    ]
    if unequal:
        return (
            "UNEQUAL COMPUTE, examples seen by the monolingual / joint model:"
            f" {', '.join(unequal)}."
        )

    return "Both models saw the same number of examples of each language."

"""The scores of one model on one task, language by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import JsonObject, Keywords, Language
from hf_meta_adapters.errors import ConfigurationError, check_known_language
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["LanguageScores"]


@dataclass(frozen=True, eq=False)
class LanguageScores:
    """The scores of one model on one task, language by language.

    Attributes:
        task: Name of the task.
        metric: The metric that stands for it.
        higher_is_better: The direction of that metric.
        scores: Language → metric → value.
        examples: Language → how many examples it was scored on.
        source_language: The language whose labels the model was trained on; the other languages are
            zero-shot. `None` where each language was trained on its own labels.
        adapters: Language → the language whose adapter it was run with, where that is not its own.
        without_labels: The languages that had no labels to train on although others beside the
            source had some: their scores are zero-shot.
        details: How the model was trained, as JSON: the rows that were drawn, say.
        per_example: Language → name → what each example adds to the metrics, shape (n,). Sums of
            numerators over sums of denominators (or means) give the metrics back: `bits` /
            `characters`, `correct` / `words`, 2 `correct` / (`predicted` + `expected`).
    """

    task: str
    metric: str
    higher_is_better: bool
    scores: Mapping[Language, Mapping[str, float]]
    examples: Mapping[Language, int]
    source_language: Language | None = None
    adapters: Mapping[Language, Language] = field(default_factory=dict)
    without_labels: Sequence[Language] = ()
    details: Keywords = field(default_factory=dict, repr=False)
    per_example: Mapping[Language, Mapping[str, NDArray[np.float64]]] = field(
        default_factory=dict, repr=False
    )

    @property
    def languages(self) -> tuple[Language, ...]:
        """The languages, in the order in which they were given."""
        return tuple(self.scores)

    @property
    def mean(self) -> dict[str, float]:
        """Metric → unweighted mean over the languages."""
        return self._mean(self.languages)

    @property
    def zero_shot_mean(self) -> dict[str, float]:
        """Metric → unweighted mean over the languages other than `source_language`.

        Raises:
            ConfigurationError: Without a source language, or without any other language.
        """
        others = [language for language in self.languages if language != self.source_language]
        if self.source_language is None or not others:
            raise ConfigurationError(
                "A zero-shot mean needs a source language and at least one other. Found source"
                f" {self.source_language!r} and languages {list(self.languages)}. Pass"
                ' `evaluate_languages(..., source_language="en")`.'
            )
        return self._mean(others)

    def __getitem__(self, language: Language) -> Mapping[str, float]:
        """Return metric → value of one language."""
        return self.scores[check_known_language(language, self.scores, what="these scores")]

    def values(self, metric: str | None = None) -> dict[Language, float]:
        """Return language → value of one metric.

        Args:
            metric: The metric; by default the one that stands for the task.

        Returns:
            The values, as `interference_report` takes them.

        Raises:
            ConfigurationError: If there is no such metric.
        """
        name = metric or self.metric

        known = list(next(iter(self.scores.values()), ()))
        if name not in known:
            raise ConfigurationError(f"`metric` must be one of {known}. Found {name!r}.")

        return {language: scores[name] for language, scores in self.scores.items()}

    def to_dict(self, *, per_example: bool = False) -> JsonObject:
        """Return everything as strings, numbers, lists and dicts, ready for JSON.

        Args:
            per_example: Include the values of every example.

        Returns:
            The dict.
        """
        scores: dict[str, Any] = {
            "task": self.task,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "source_language": self.source_language,
            "adapters": dict(self.adapters),
            "scores": {language: dict(metrics) for language, metrics in self.scores.items()},
            "mean": self.mean,
            "examples": dict(self.examples),
        }

        # Of fine-tuning alone: a pretrained model has neither.
        if self.without_labels:
            scores["without_labels"] = list(self.without_labels)
        if self.details:
            scores["details"] = dict(self.details)

        # Left out by default: it may be as large as the test sets.
        if per_example:
            scores["per_example"] = {}
            for language, arrays in self.per_example.items():
                lists = {name: values.tolist() for name, values in arrays.items()}
                scores["per_example"][language] = lists

        return scores

    def to_markdown(self) -> str:
        """Return a Markdown table of all metrics, with their means and a caption."""
        metrics = list(self.mean)
        rows = []
        for language, scores in self.scores.items():
            examples = f"{self.examples[language]:,}"
            rows.append([self._label(language), *_numbers(scores, metrics), examples])
        rows.append(["mean", *_numbers(self.mean, metrics), ""])

        # With the source language alone, there is no language to transfer to.
        has_zero_shot = len(set(self.languages) - {self.source_language}) > 0
        if self.source_language is not None and has_zero_shot:
            rows.append(["zero-shot mean", *_numbers(self.zero_shot_mean, metrics), ""])

        table = markdown_table(["language", *metrics, "examples"], rows)
        return f"{table}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the metric that stands for the task as one bar per language.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        title = self.task
        if self.source_language is not None:
            title = f"{self.task}, trained on {self.source_language}"

        # NaN as the ends of the intervals: the scores of one model have none.
        bars = [(value, float("nan"), float("nan")) for value in self.values().values()]
        return plot_intervals(
            {self.metric: bars}, self.languages, title=title, ylabel=self.metric, path=path, ax=ax
        )

    def _mean(self, languages: Sequence[Language]) -> dict[str, float]:
        if not languages:
            return {}

        # Unweighted: a language with a large test set must not hide the others.
        chosen = [self.scores[language] for language in languages]
        means = {}
        for metric in chosen[0]:
            means[metric] = float(np.mean([scores[metric] for scores in chosen]))

        return means

    def _label(self, language: Language) -> str:
        marks = []
        if language == self.source_language:
            marks.append("source")
        if language in self.without_labels:
            marks.append("no labels")
        if language in self.adapters:
            marks.append(f"adapter of {self.adapters[language]}")

        if not marks:
            return language

        return f"{language} ({', '.join(marks)})"

    def _caption(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        caption = f"Task {self.task}; {self.metric}: {better} is better."

        if self.source_language is not None:
            caption += f" Trained on labels in {self.source_language} only."

        return caption


def _numbers(scores: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    return [format_number(scores[metric]) for metric in metrics]

"""The scores of one model on one task, language by language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
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
        adapters: Language → the language whose adapter it was run with, where that is another one.
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
            ConfigurationError: Without a source language, or without another one.
        """
        others = [language for language in self.languages if language != self.source_language]
        if self.source_language is None or not others:
            raise ConfigurationError(
                "A zero-shot mean needs a source language and another one. Found source"
                f" {self.source_language!r} and "
                f"languages {list(self.languages)}. Write `evaluate_languages(...,"
                ' source_language="en")`.'
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

    def to_dict(self, *, per_example: bool = False) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON.

        Args:
            per_example: Include the values of every example.

        Returns:
            The dict.
        """
        arrays = {
            language: {name: values.tolist() for name, values in own.items()}
            for language, own in self.per_example.items()
        }
        return {
            "task": self.task,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "source_language": self.source_language,
            "adapters": dict(self.adapters),
            "scores": {language: dict(metrics) for language, metrics in self.scores.items()},
            "mean": self.mean,
            "examples": dict(self.examples),
            **({"per_example": arrays} if per_example else {}),
        }

    def to_markdown(self) -> str:
        """Return a Markdown table of all metrics, with the mean, and how the scores came about."""
        metrics = list(self.mean)
        rows = [
            [
                self._label(language),
                *(format_number(own[name]) for name in metrics),
                f"{self.examples[language]:,}",
            ]
            for language, own in self.scores.items()
        ]
        rows.append(["mean", *(format_number(self.mean[name]) for name in metrics), ""])
        if (
            self.source_language is not None
            and len(set(self.languages) - {self.source_language}) > 0
        ):
            rows.append(
                [
                    "zero-shot mean",
                    *(format_number(self.zero_shot_mean[name]) for name in metrics),
                    "",
                ]
            )
        return f"{markdown_table(['language', *metrics, 'examples'], rows)}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the metric that stands for the task as one bar a language.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        bars = [(value, float("nan"), float("nan")) for value in self.values().values()]
        title = (
            self.task
            if self.source_language is None
            else f"{self.task}, trained on {self.source_language}"
        )
        return plot_intervals(
            {self.metric: bars}, self.languages, title=title, ylabel=self.metric, path=path, ax=ax
        )

    def _mean(self, languages: Iterable[Language]) -> dict[str, float]:
        chosen = [self.scores[language] for language in languages]
        return {
            name: float(np.mean([scores[name] for scores in chosen]))
            for name in (chosen[0] if chosen else ())
        }

    def _label(self, language: Language) -> str:
        marks = ["source"] if language == self.source_language else []
        if language in self.adapters:
            marks.append(f"adapter of {self.adapters[language]}")
        return f"{language} ({', '.join(marks)})" if marks else language

    def _caption(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        trained = (
            ""
            if self.source_language is None
            else f" Trained on labels in {self.source_language} only."
        )
        return f"Task {self.task}; {self.metric}: {better} is better.{trained}"

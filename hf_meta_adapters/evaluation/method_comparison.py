"""The result of `compare_methods`: scores of methods, their means and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import JsonObject, Language
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

__all__ = ["MethodComparison", "PairedDifference"]


@dataclass(frozen=True)
class PairedDifference:
    """How much better one method is than another.

    Attributes:
        treatment: The method under test.
        baseline: The method that it is compared with.
        mean: Mean over seeds of the difference of the means over languages; above 0 where the
            treatment is better.
        low: Lower end of its interval; NaN with one seed.
        high: Upper end.
        p_value: Of the paired t test over seeds, adjusted for the number of comparisons; NaN with
            one seed.
        wins: In how many pairs of a language and a seed the treatment is better.
        pairs: How many pairs there are.
    """

    treatment: str
    baseline: str
    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    pairs: int

    def to_dict(self) -> JsonObject:
        """Return the attributes by name, ready for JSON (NaN as `None`)."""
        values = asdict(self)

        # One seed has neither interval nor p-value, and JSON has no NaN.
        for name in ("low", "high", "p_value"):
            values[name] = none_if_nan(values[name])

        return values


@dataclass(frozen=True)
class MethodComparison:
    """The scores of several methods over the same languages and seeds, see `compare_methods`.

    Attributes:
        metric: What the scores are.
        higher_is_better: Their direction.
        confidence: Coverage of the intervals.
        languages: The languages.
        scores: Method → scores, languages × seeds.
        means: Method → mean over languages and seeds, and the ends of its interval over seeds.
        differences: Of each treatment to each other method.
    """

    metric: str
    higher_is_better: bool
    confidence: float
    languages: tuple[Language, ...]
    scores: Mapping[str, Sequence[Sequence[float]]]
    means: Mapping[str, tuple[float, float, float]]
    differences: tuple[PairedDifference, ...]

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(next(iter(self.scores.values()))[0])

    def to_dict(self) -> JsonObject:
        """Return strings, numbers, lists and dicts, ready for JSON (NaN as `None`)."""
        means: dict[str, list[float | None]] = {}
        for name, mean_and_ends in self.means.items():
            means[name] = [none_if_nan(value) for value in mean_and_ends]

        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "confidence": self.confidence,
            "languages": list(self.languages),
            "scores": {name: [list(row) for row in rows] for name, rows in self.scores.items()},
            "means": means,
            "differences": [difference.to_dict() for difference in self.differences],
        }

    def to_markdown(self) -> str:
        """Return a table of the scores, and one of the differences if there are treatments."""
        rows = []
        for name, matrix in self.scores.items():
            means = [format_number(sum(row) / len(row)) for row in matrix]
            rows.append([name, *means, format_interval(*self.means[name])])

        parts = [markdown_table(["method", *self.languages, "mean"], rows), self._caption()]

        if self.differences:
            header = ["treatment", "against", "better by", "p (Holm)", "wins"]
            parts.append(markdown_table(header, [_row(d) for d in self.differences]))
            parts.append(
                "Paired over seeds. Wins: pairs of a language and a seed in which the treatment is"
                " better."
            )

        return "\n\n".join(parts)

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the mean of each method as a point with its interval.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        better = "higher" if self.higher_is_better else "lower"

        # Methods are identifiers, such as `meta_train`; an axis is for readers.
        return plot_intervals(
            {self.metric: list(self.means.values())},
            [name.replace("_", " ") for name in self.means],
            title=f"{self.metric}, mean over {len(self.languages)} languages ({better} is better)",
            ylabel=self.metric,
            points=True,
            path=path,
            ax=ax,
        )

    def _caption(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        seeds = f"{self.seeds} seeds, {self.confidence:.0%} t intervals"
        if self.seeds == 1:
            seeds = "one seed, no intervals"

        return f"{self.metric}: {better} is better; {seeds}."


def _row(difference: PairedDifference) -> list[str]:
    return [
        difference.treatment,
        difference.baseline,
        format_interval(difference.mean, difference.low, difference.high, sign=True),
        format_number(difference.p_value),
        f"{difference.wins} of {difference.pairs}",
    ]

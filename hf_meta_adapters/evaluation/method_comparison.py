"""The result of `compare_methods`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["MethodComparison", "PairedDifference"]


@dataclass(frozen=True)
class PairedDifference:
    """How much better one method is than another.

    Attributes:
        treatment: The one.
        baseline: The other.
        mean: Mean over seeds of the difference of the means over languages; above 0: the treatment
            is better.
        low: Lower end of its interval; NaN with one seed.
        high: Upper end.
        p_value: Of the paired t test over seeds, adjusted for the number of comparisons; NaN with
            one seed.
        wins: In how many pairs of language and seed the treatment is better.
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

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON (NaN as `None`)."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "confidence": self.confidence,
            "languages": list(self.languages),
            "scores": {name: [list(row) for row in rows] for name, rows in self.scores.items()},
            "means": {
                name: [_or_none(value) for value in mean] for name, mean in self.means.items()
            },
            "differences": [
                {key: _or_none(value) for key, value in asdict(d).items()} for d in self.differences
            ],
        }

    def to_markdown(self) -> str:
        """Return a table of the scores, and one of the differences if there are treatments."""
        rows = [
            [
                name,
                *(format_number(sum(own) / len(own)) for own in self.scores[name]),
                _with_interval(*self.means[name]),
            ]
            for name in self.scores
        ]
        better = "higher" if self.higher_is_better else "lower"
        seeds = (
            "one seed, no intervals"
            if self.seeds == 1
            else f"{self.seeds} seeds, {self.confidence:.0%} t intervals"
        )
        found = [
            markdown_table(["method", *self.languages, "mean"], rows),
            f"{self.metric}: {better} is better; {seeds}.",
        ]
        if self.differences:
            header = ["treatment", "against", "better by", "p (Holm)", "wins"]
            found.append(
                markdown_table(header, [_row(difference) for difference in self.differences])
            )
            found.append(
                "Paired over seeds; wins: pairs of language and seed in which the treatment is"
                " better."
            )
        return "\n\n".join(found)

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the mean of each method as a point with its interval.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        better = "higher" if self.higher_is_better else "lower"
        return plot_intervals(
            {self.metric: list(self.means.values())},
            [name.replace("_", " ") for name in self.means],
            title=f"{self.metric}, mean over {len(self.languages)} languages ({better} is better)",
            ylabel=self.metric,
            points=True,
            path=path,
            ax=ax,
        )


def _row(difference: PairedDifference) -> list[str]:
    value = _with_interval(difference.mean, difference.low, difference.high, sign=True)
    wins = f"{difference.wins} of {difference.pairs}"
    return [
        difference.treatment,
        difference.baseline,
        value,
        format_number(difference.p_value),
        wins,
    ]


def _with_interval(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    value = format_number(mean, sign=sign)
    if math.isnan(low):
        return value
    return f"{value} [{format_number(low, sign=sign)}, {format_number(high, sign=sign)}]"


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value

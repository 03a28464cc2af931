"""A model beside reference models of single languages: the result of `compare_references`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import format_interval, format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["ReferenceComparison", "ReferenceGap"]

_COVERED = 0.95
"""Share of the characters below which a score says little of the text."""


@dataclass(frozen=True)
class ReferenceGap:
    """How far a model is behind the reference model of one language.

    Attributes:
        language: The language.
        reference: The name of the reference model.
        bits: Bits per character of the model.
        reference_bits: Those of the reference.
        difference: The first minus the second; above 0, the reference predicts the text better.
        low: Lower end of the interval of `difference`.
        high: Upper end.
        scored: Share of the characters that the model was scored on: those of known tokens.
        reference_scored: The same for the reference.
    """

    language: Language
    reference: str
    bits: float
    reference_bits: float
    difference: float
    low: float
    high: float
    scored: float
    reference_scored: float


@dataclass(frozen=True)
class ReferenceComparison:
    """Bits per character of a model and of reference models, on the same texts.

    Attributes:
        rows: One for each language.
        confidence: Coverage of all intervals together.
    """

    rows: Sequence[ReferenceGap]
    confidence: float

    @property
    def behind(self) -> tuple[Language, ...]:
        """The languages of which the reference is shown to predict the texts better."""
        return tuple(row.language for row in self.rows if row.low > 0)

    @property
    def finding(self) -> str:
        """What was found, in a sentence."""
        count = len(self.rows)
        if not self.behind:
            return f"No reference model of {count} languages is shown to predict its texts better."

        return (
            f"Reference models predict texts in {', '.join(self.behind)} better than this model, of"
            f" {count} languages compared."
        )

    def to_dict(self) -> dict[str, object]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON."""
        return {
            "confidence": self.confidence,
            "behind": list(self.behind),
            "rows": [asdict(row) for row in self.rows],
        }

    def to_markdown(self) -> str:
        """Return a Markdown table of the differences, and what they compare."""
        lines = [
            [
                row.language,
                row.reference,
                format_number(row.bits),
                format_number(row.reference_bits),
                format_interval(row.difference, row.low, row.high, sign=True),
            ]
            for row in self.rows
        ]
        header = ["language", "reference", "this model", "reference alone", "difference"]
        caption = (
            "Bits per character; difference above 0: the reference predicts the text better. In"
            f" brackets: paired bootstrap intervals that hold together with {self.confidence:.0%}."
        )

        partly = [
            f"{row.language} ({min(row.scored, row.reference_scored):.0%})"
            for row in self.rows
            if min(row.scored, row.reference_scored) < _COVERED
        ]
        if partly:
            caption += (
                f" NOT COMPARABLE: {', '.join(partly)}, where a tokenizer knows that share of the"
                " characters only."
            )
        return f"{markdown_table(header, lines)}\n\n{caption}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the differences as bars with their intervals.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        bars = [(row.difference, row.low, row.high) for row in self.rows]
        return plot_intervals(
            {"difference": bars},
            [row.language for row in self.rows],
            title="This model beside a reference model of each language",
            ylabel="bits per character more than the reference\n(above 0: the reference is better)",
            path=path,
            ax=ax,
        )

"""The result of `mask_overlap`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._language_matrix import (
    entries_between_languages,
    language_table,
)
from hf_meta_adapters.results.plots import plot_heat_map, plot_lines
from hf_meta_adapters.results.tables import as_lists, format_number

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["OverlapMatrix"]


@dataclass(frozen=True, eq=False)
class OverlapMatrix:
    """Overlap of the masks of L languages. Tensors are float64, on the CPU.

    Attributes:
        languages: The languages, in the order of rows and columns.
        matrix: Mean overlap over pairs of different seeds, shape (L, L). The diagonal holds
            `baseline`, or 1 without a baseline.
        baseline: Overlap between seeds of one language, shape (L,); `None` with a single seed.
        per_layer: Layer → matrix of that layer.
        chance: Overlap of independent masks of the same mean density.
        measure: `"jaccard"` or `"agreement"`.
        seeds: The seeds.
    """

    languages: tuple[Language, ...]
    matrix: Tensor
    baseline: Tensor | None
    per_layer: dict[str, Tensor]
    chance: float
    measure: str
    seeds: tuple[int, ...]

    @property
    def between_languages(self) -> float:
        """Mean overlap of two languages; NaN with a single language."""
        return float(entries_between_languages(self.matrix).mean())

    @property
    def between_seeds(self) -> float:
        """Mean overlap of two seeds of one language; NaN with a single seed."""
        if self.baseline is None:
            return float("nan")

        return float(self.baseline.mean())

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON, with `None` for NaN."""
        return {
            "languages": list(self.languages),
            "matrix": as_lists(self.matrix),
            "baseline": as_lists(self.baseline),
            "per_layer": {layer: as_lists(matrix) for layer, matrix in self.per_layer.items()},
            # Means are written in single precision, as in every report so far.
            "between_languages": as_lists(torch.tensor(self.between_languages)),
            "between_seeds": as_lists(torch.tensor(self.between_seeds)),
            "chance": self.chance,
            "measure": self.measure,
            "seeds": list(self.seeds),
        }

    def to_markdown(self) -> str:
        """Return the matrix as a Markdown table, and what to compare it with."""

        def entry(i: int, j: int) -> str:
            return format_number(float(self.matrix[i, j]), 2)

        table = language_table(self.measure, self.languages, entry)
        return f"{table}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the matrix as a heat map.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        # The whole range of an overlap, so that the pictures of several models can be compared.
        return plot_heat_map(
            self.matrix,
            self.languages,
            title=f"Overlap of language masks ({self.measure})",
            caption=self._caption(),
            limits=(0, 1),
            color_map="viridis",
            path=path,
            ax=ax,
        )

    def plot_layers(
        self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw the mean overlap between languages and between seeds, layer by layer.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        matrices = self.per_layer.values()

        series = {"between languages": [entries_between_languages(matrix) for matrix in matrices]}
        if self.baseline is not None:
            series["between seeds"] = [matrix.diagonal() for matrix in matrices]

        return plot_lines(
            {name: [float(x.mean()) for x in overlaps] for name, overlaps in series.items()},
            list(self.per_layer),
            title="Overlap of masks, layer by layer",
            xlabel="layer",
            ylabel=f"{self.measure}: mean and range",
            bands={name: [_range(x) for x in overlaps] for name, overlaps in series.items()},
            path=path,
            ax=ax,
        )

    def _caption(self) -> str:
        seeds = "one seed, no baseline"
        if self.baseline is not None:
            seeds = f"between seeds {self.between_seeds:.2f}"

        # NaN with a single language.
        between = format_number(self.between_languages, 2)
        return f"Between languages {between}, {seeds}, by chance {self.chance:.2f}."


def _range(values: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest value; NaN if there is none, as with one language."""
    if not len(values):
        return math.nan, math.nan

    return float(values.min()), float(values.max())

"""The result of `mask_overlap`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.plots import plot_heat_map, plot_lines
from hf_meta_adapters.results.tables import as_lists, format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["OverlapMatrix"]


@dataclass(frozen=True, eq=False)
class OverlapMatrix:
    """Overlap of the masks of L languages. Tensors are float64, on the CPU.

    Attributes:
        languages: The languages, in the order of rows and columns.
        matrix: Mean overlap over pairs of different seeds, shape (L, L); the diagonal is
            `baseline`.
        baseline: Overlap between seeds of one language, shape (L,), or `None` with a single seed.
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
        return _off_diagonal_mean(self.matrix)

    @property
    def between_seeds(self) -> float:
        """Mean overlap of two seeds of one language; NaN with a single seed."""
        return float("nan") if self.baseline is None else float(self.baseline.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON; NaN becomes `None`."""
        return {
            "languages": list(self.languages),
            "matrix": as_lists(self.matrix),
            "baseline": None if self.baseline is None else as_lists(self.baseline),
            "per_layer": {layer: as_lists(matrix) for layer, matrix in self.per_layer.items()},
            "between_languages": as_lists(torch.tensor(self.between_languages)),
            "between_seeds": as_lists(torch.tensor(self.between_seeds)),
            "chance": self.chance,
            "measure": self.measure,
            "seeds": list(self.seeds),
        }

    def to_markdown(self) -> str:
        """Return the matrix as a Markdown table, and what it has to be compared with."""
        rows = [
            [language, *(format_number(float(value), 2) for value in row)]
            for language, row in zip(self.languages, self.matrix, strict=True)
        ]
        return f"{markdown_table([self.measure, *self.languages], rows)}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the matrix as a heat map.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
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
        """Draw, layer by layer, the overlap between languages and that between seeds.

        Args:
            path: Where to write the picture.
            ax: Axes to draw into.

        Returns:
            The axes.
        """
        lines = {
            "between languages": [_off_diagonal_mean(matrix) for matrix in self.per_layer.values()]
        }
        if self.baseline is not None:
            lines["between seeds"] = [
                float(matrix.diagonal().mean()) for matrix in self.per_layer.values()
            ]
        return plot_lines(
            lines,
            list(self.per_layer),
            title="Overlap of masks, layer by layer",
            xlabel="layer",
            ylabel=f"mean {self.measure}",
            path=path,
            ax=ax,
        )

    def _caption(self) -> str:
        seeds = (
            "one seed, no baseline"
            if self.baseline is None
            else f"between seeds {self.between_seeds:.2f}"
        )
        return (
            f"Between languages {format_number(self.between_languages, 2)}, {seeds}, by chance"
            f" {self.chance:.2f}."
        )


def _off_diagonal_mean(matrix: Tensor) -> float:
    return float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean())

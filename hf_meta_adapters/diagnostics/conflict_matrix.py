"""The result of `gradient_conflict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._language_matrix import (
    entries_between_languages,
    language_pairs,
    language_table,
)
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results.plots import plot_heat_map, plot_lines
from hf_meta_adapters.results.tables import as_lists, format_interval, format_number

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Conflict", "ConflictMatrix"]

_MEANS = ("between languages", "within a language")


@dataclass(frozen=True)
class Conflict:
    """Two languages and the cosine between their gradients.

    Attributes:
        languages: The two languages.
        cosine: The cosine, from −1 (each undoes what the other learns) to 1.
        layer: The layer, or `None` for the whole model.
    """

    languages: tuple[Language, Language]
    cosine: float
    layer: str | None = None


@dataclass(frozen=True, eq=False)
class ConflictMatrix:
    """Cosines between the gradients of L languages. All tensors are float64, on the CPU.

    Attributes:
        languages: The languages, in the order of rows and columns.
        matrix: Cosine between mean gradients over `sample_size` batches, shape (L, L). The diagonal
            holds `baseline`, or 1 without a baseline.
        baseline: Cosine between two independent means of one language, shape (L,): what noise alone
            leaves of perfect agreement. `None` if a language has a single batch.
        disattenuated: `matrix` without the effect of noise, shape (L, L): an estimate of the cosine
            between expected gradients. It may lie outside [−1, 1] and is NaN where a baseline is
            not positive; `None` without a baseline.
        interval: Ends of the bootstrap interval of each entry, shape (L, L, 2); `None` with fewer
            than four blocks.
        confidence: Coverage of `interval`.
        sample_size: Batches in each of the mean gradients that are compared.
        number_of_batches: Number of batches of each language.
        projection: Dimension of the random projection, or `None` for exact products.
        per_layer: Layer → matrix of that layer, if requested; NaN where a language has no gradient.
        per_kind: Kind of parameter → matrix, if requested.
        layer_intervals: Layer → interval of each entry, shape (L, L, 2); empty without `per_layer`
            or `interval`.
        layer_mean_intervals: Layer → interval of the mean cosine between languages and of that
            within a language, shape (2, 2).
    """

    languages: tuple[Language, ...]
    matrix: Tensor
    baseline: Tensor | None
    disattenuated: Tensor | None
    interval: Tensor | None
    confidence: float
    sample_size: int
    number_of_batches: tuple[int, ...]
    projection: int | None = None
    per_layer: dict[str, Tensor] = field(default_factory=dict)
    per_kind: dict[str, Tensor] = field(default_factory=dict)
    layer_intervals: dict[str, Tensor] = field(default_factory=dict)
    layer_mean_intervals: dict[str, Tensor] = field(default_factory=dict)

    def most_conflicting(self, *, per_layer: bool = False) -> Conflict:
        """Return the two languages with the lowest cosine, in the whole model or in any layer.

        Args:
            per_layer: Search all layers for the lowest cosine.

        Returns:
            The pair.

        Raises:
            ConfigurationError: With a single language, or without the layers.
        """
        if len(self.languages) < 2:
            raise ConfigurationError(
                f"A conflict needs at least two languages. Found {list(self.languages)}. Pass"
                " `gradient_conflict` the batches of another one."
            )

        matrices: list[tuple[str | None, Tensor]] = [(None, self.matrix)]
        if per_layer:
            matrices = list(self._layers().items())

        # A language without gradient has no cosine, hence no conflict.
        cosines = [language_pairs(matrix).nan_to_num(nan=torch.inf) for _, matrix in matrices]
        lowest = min(range(len(matrices)), key=lambda index: float(cosines[index].min()))
        layer, matrix = matrices[lowest]

        pairs = list(combinations(range(len(self.languages)), 2))
        i, j = pairs[int(cosines[lowest].argmin())]
        return Conflict((self.languages[i], self.languages[j]), float(matrix[i, j]), layer)

    @property
    def between_languages(self) -> float:
        """Mean cosine of two languages; NaN with a single language."""
        return float(entries_between_languages(self.matrix).nanmean())

    @property
    def within_languages(self) -> float:
        """Mean cosine of two independent samples of one language; NaN without a baseline."""
        if self.baseline is None:
            return float("nan")

        return float(self.baseline.nanmean())

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON, with `None` for NaN."""
        return {
            "languages": list(self.languages),
            "matrix": as_lists(self.matrix),
            "baseline": as_lists(self.baseline),
            "disattenuated": as_lists(self.disattenuated),
            "interval": as_lists(self.interval),
            "confidence": self.confidence,
            "sample_size": self.sample_size,
            "number_of_batches": list(self.number_of_batches),
            "projection": self.projection,
            "per_layer": {layer: as_lists(matrix) for layer, matrix in self.per_layer.items()},
            "per_kind": {kind: as_lists(matrix) for kind, matrix in self.per_kind.items()},
            "layer_intervals": {key: as_lists(ends) for key, ends in self.layer_intervals.items()},
            "layer_mean_intervals": {
                key: as_lists(ends) for key, ends in self.layer_mean_intervals.items()
            },
        }

    def to_markdown(self) -> str:
        """Return the matrix as a Markdown table, with its intervals and what it compares."""
        table = language_table("cosine", self.languages, self._entry)
        return f"{table}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the matrix as a heat map.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        # All that a cosine can be, so that the pictures of several models can be compared.
        return plot_heat_map(
            self.matrix,
            self.languages,
            title="Cosine between the gradients of languages",
            caption=self._caption(),
            limits=(-1, 1),
            path=path,
            ax=ax,
        )

    def plot_layers(
        self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw the mean cosine between languages and within a language, layer by layer.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.

        Raises:
            ConfigurationError: Without the layers.
        """
        layers = self._layers()

        # Without NaN: in some layers, some languages have no gradient.
        between, within = _MEANS
        lines = {
            between: [
                float(entries_between_languages(matrix).nanmean()) for matrix in layers.values()
            ]
        }
        if self.baseline is not None:
            lines[within] = [float(matrix.diagonal().nanmean()) for matrix in layers.values()]

        bands: dict[str, list[tuple[float, float]]] = {}
        if self.layer_mean_intervals:
            ends = torch.stack([self.layer_mean_intervals[layer] for layer in layers])
            bands = {name: ends[:, index].tolist() for index, name in enumerate(_MEANS)}

        return plot_lines(
            lines,
            list(layers),
            title="Cosine between gradients, layer by layer",
            xlabel="layer",
            ylabel="mean cosine",
            bands=bands,
            path=path,
            ax=ax,
        )

    def _layers(self) -> dict[str, Tensor]:
        if not self.per_layer:
            raise ConfigurationError(
                "The layers must be measured before they can be shown. Found a result without"
                " them. Call `gradient_conflict(model, batches, per_layer=True)`."
            )

        return self.per_layer

    def _entry(self, i: int, j: int) -> str:
        value = float(self.matrix[i, j])
        if self.interval is None:
            return format_number(value, 2)

        low, high = self.interval[i, j].tolist()
        return format_interval(value, low, high, digits=2)

    def _caption(self) -> str:
        if self.baseline is None:
            return "One mean gradient per language; the diagonal is 1 by definition."

        batches = f"{self.sample_size} batches"
        if self.sample_size == 1:
            batches = "1 batch"

        return (
            f"Mean gradients over {batches} each; the diagonal compares independent batches of one"
            " language."
        )

"""The result of `gradient_conflict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results.plots import plot_heat_map, plot_lines
from hf_meta_adapters.results.tables import as_lists, format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Conflict", "ConflictMatrix"]


@dataclass(frozen=True)
class Conflict:
    """Two languages and the cosine between their gradients.

    Attributes:
        languages: The two languages.
        cosine: The cosine, from −1 (they undo one another) to 1.
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
            holds `baseline`, or 1 where there is none.
        baseline: Cosine between two independent means of one language, shape (L,): what noise alone
            leaves of a perfect agreement. `None` where a language has a single batch.
        disattenuated: `matrix` without the effect of noise, shape (L, L): an estimate of the cosine
            between expected gradients. It may leave [−1, 1] and is NaN where a baseline is not
            positive; `None` without baseline.
        interval: Ends of the bootstrap interval of each entry, shape (L, L, 2), or `None` (fewer
            than four blocks).
        confidence: Coverage of `interval`.
        sample_size: Batches in each mean gradient that is compared.
        number_of_batches: Batches seen of each language.
        projection: Dimension of the random projection, or `None` for exact products.
        per_layer: Layer → matrix of that layer, if asked for. NaN where a language has no gradient.
        per_kind: Kind of parameter → matrix, if asked for.
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

    def most_conflicting(self, *, per_layer: bool = False) -> Conflict:
        """Return the two languages with the lowest cosine, in the whole model or over all layers.

        Args:
            per_layer: Look for the lowest cosine of any layer.

        Returns:
            The pair.

        Raises:
            ConfigurationError: With a single language, or without the layers that are asked for.
        """
        if len(self.languages) < 2:
            raise ConfigurationError(
                f"A conflict needs at least two languages. Found {list(self.languages)}. Give"
                " `gradient_conflict` the batches of another."
            )
        matrices: dict[str | None, Tensor] = (
            dict(self._layers().items()) if per_layer else {None: self.matrix}
        )
        rows, columns = torch.triu_indices(len(self.languages), len(self.languages), offset=1)
        pairs = {
            layer: matrix[rows, columns].nan_to_num(nan=torch.inf)
            for layer, matrix in matrices.items()
        }
        layer = min(pairs, key=lambda key: float(pairs[key].min()))
        lowest = int(pairs[layer].argmin())
        languages = self.languages[int(rows[lowest])], self.languages[int(columns[lowest])]
        return Conflict(languages, float(matrices[layer][rows[lowest], columns[lowest]]), layer)

    @property
    def between_languages(self) -> float:
        """Mean cosine of two languages; NaN with a single language."""
        return _off_diagonal_mean(self.matrix)

    @property
    def within_languages(self) -> float:
        """Mean cosine of two independent samples of one language; NaN without baseline."""
        return float("nan") if self.baseline is None else float(self.baseline.nanmean())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON; NaN becomes `None`."""
        optional = {
            "baseline": self.baseline,
            "disattenuated": self.disattenuated,
            "interval": self.interval,
        }
        return {
            "languages": list(self.languages),
            "matrix": as_lists(self.matrix),
            **{
                name: None if tensor is None else as_lists(tensor)
                for name, tensor in optional.items()
            },
            "confidence": self.confidence,
            "sample_size": self.sample_size,
            "number_of_batches": list(self.number_of_batches),
            "projection": self.projection,
            "per_layer": {layer: as_lists(matrix) for layer, matrix in self.per_layer.items()},
            "per_kind": {kind: as_lists(matrix) for kind, matrix in self.per_kind.items()},
        }

    def to_markdown(self) -> str:
        """Return the matrix as a Markdown table, with intervals where there are any, and what it compares."""
        rows = [
            [language, *(self._entry(i, j) for j in range(len(self.languages)))]
            for i, language in enumerate(self.languages)
        ]
        return f"{markdown_table(['cosine', *self.languages], rows)}\n\n{self._caption()}"

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the matrix as a heat map.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        shown = (
            self.matrix if self.baseline is not None else self.matrix - torch.eye(len(self.matrix))
        )
        limit = max(
            0.1, float(shown.nan_to_num().abs().max())
        )  # a diagonal that is 1 by definition says nothing
        return plot_heat_map(
            self.matrix,
            self.languages,
            title="Cosine between the gradients of languages",
            caption=self._caption(),
            limits=(-limit, limit),
            path=path,
            ax=ax,
        )

    def plot_layers(
        self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw, layer by layer, the mean cosine between languages and that within a language.

        Args:
            path: Where to write the picture.
            ax: Axes to draw into.

        Returns:
            The axes.

        Raises:
            ConfigurationError: If the layers were not asked for.
        """
        layers = self._layers()
        profiles = {"between languages": [_off_diagonal_mean(matrix) for matrix in layers.values()]}
        if self.baseline is not None:
            profiles["within a language"] = [float(m.diagonal().nanmean()) for m in layers.values()]
        return plot_lines(
            profiles,
            list(layers),
            title="Cosine between gradients, layer by layer",
            xlabel="layer",
            ylabel="mean cosine",
            path=path,
            ax=ax,
        )

    def _layers(self) -> dict[str, Tensor]:
        if not self.per_layer:
            raise ConfigurationError(
                "The layers must be asked for before they can be shown. Found a result without"
                " them. Write `gradient_conflict(model, batches, per_layer=True)`."
            )
        return self.per_layer

    def _entry(self, i: int, j: int) -> str:
        value = format_number(float(self.matrix[i, j]), 2)
        if self.interval is None:
            return value
        low, high = (format_number(float(end), 2) for end in self.interval[i, j])
        return f"{value} [{low}, {high}]"

    def _caption(self) -> str:
        if self.baseline is None:
            return "One mean gradient per language; the diagonal is 1 by definition."
        batches = "1 batch" if self.sample_size == 1 else f"{self.sample_size} batches"
        return (
            f"Mean gradients over {batches} each; the diagonal compares independent batches of one"
            " language."
        )


def _off_diagonal_mean(matrix: Tensor) -> float:
    return float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].nanmean())

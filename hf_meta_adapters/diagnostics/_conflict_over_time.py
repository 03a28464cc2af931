"""Gradient conflict over training time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results.plots import plot_lines

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["plot_conflict_over_time"]

_MOST_PAIRS = 6  # more lines than this are drawn as their mean and range


def plot_conflict_over_time(
    conflicts: Mapping[int, ConflictMatrix],
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the cosine between each pair of languages over the training steps.

    More than six pairs are drawn as their mean, highest and lowest cosine.

    Args:
        conflicts: Training step → result of `gradient_conflict`, on the same languages.
        path: The file to write the picture to; its suffix determines the format.
        ax: Axes to draw into; a new figure by default.

    Returns:
        The axes.

    Raises:
        ConfigurationError: If there are no results, or their languages differ.
    """
    languages = {conflict.languages for conflict in conflicts.values()}
    if len(languages) != 1:
        raise ConfigurationError(
            "The conflict over time needs results on the same languages. Found"
            f" {sorted(languages)}. Draw them separately."
        )

    # A dict read from JSON may have its steps in any order.
    steps = sorted(conflicts)
    results = [conflicts[step] for step in steps]

    lines = _lines_of_pairs(results)
    if len(lines) > _MOST_PAIRS:
        lines = _mean_and_range(lines)

    # Only if no step lacks it: a line with gaps would look like a change.
    baselines = [result.baseline for result in results if result.baseline is not None]
    if len(baselines) == len(results):
        lines["within a language (mean)"] = [float(baseline.mean()) for baseline in baselines]

    return plot_lines(
        lines,
        steps,
        title="Cosine between gradients over training",
        xlabel="training step",
        ylabel="cosine",
        path=path,
        ax=ax,
    )


def _lines_of_pairs(results: list[ConflictMatrix]) -> dict[str, list[float]]:
    """Return pair of languages → its cosines, step by step."""
    lines: dict[str, list[float]] = {}
    for (i, first), (j, second) in combinations(enumerate(results[0].languages), 2):
        lines[f"{first}–{second}"] = [float(result.matrix[i, j]) for result in results]

    return lines


def _mean_and_range(lines: Mapping[str, list[float]]) -> dict[str, list[float]]:
    steps = list(zip(*lines.values(), strict=True))
    return {
        "highest pair": [max(cosines) for cosines in steps],
        "mean of pairs": [sum(cosines) / len(cosines) for cosines in steps],
        "lowest pair": [min(cosines) for cosines in steps],
    }

"""Gradient conflict over training time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from hf_meta_adapters.diagnostics._conflict_matrix import ConflictMatrix
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
    """Draw the cosine between each pair of languages over the training steps; with many pairs mean and extremes.

    Args:
        conflicts: Training step → result of `gradient_conflict`, of the same languages.
        path: Where to write the picture; its suffix names the format.
        ax: Axes to draw into; a new figure by default.

    Returns:
        The axes.

    Raises:
        ConfigurationError: If there is none, or the languages change.
    """
    steps = sorted(conflicts)
    found = {conflicts[step].languages for step in steps}
    if len(found) != 1:
        raise ConfigurationError(
            f"The conflict over time needs results of the same languages. Found {sorted(found)}."
            " Draw them apart."
        )
    languages = found.pop()
    pairs = list(combinations(range(len(languages)), 2))
    lines = {
        f"{languages[i]}–{languages[j]}": [float(conflicts[step].matrix[i, j]) for step in steps]
        for i, j in pairs
    }
    if len(pairs) > _MOST_PAIRS:
        columns = list(zip(*lines.values(), strict=True))
        lines = {
            "highest pair": [max(column) for column in columns],
            "mean of pairs": [sum(column) / len(column) for column in columns],
            "lowest pair": [min(column) for column in columns],
        }
    baselines = [conflicts[step].baseline for step in steps]
    if all(baseline is not None for baseline in baselines):
        lines["within a language (mean)"] = [float(b.mean()) for b in baselines if b is not None]
    title = "Cosine between gradients over training"
    return plot_lines(
        lines, steps, title=title, xlabel="training step", ylabel="cosine", path=path, ax=ax
    )

"""Drawing of every diagnostic: heat maps, bars with intervals, profiles over layers and over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results._labels import families_for, language_label

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["plot_heat_map", "plot_intervals", "plot_lines"]

_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito (2008)
_MARKERS = "osD^vPX"
_INSIDE = 3  # a longer legend would lie on the lines
_ANNOTATED = 14  # larger matrices have no room for numbers


def plot_heat_map(
    matrix: Tensor,
    languages: Sequence[Language],
    *,
    title: str,
    caption: str = "",
    limits: tuple[float, float],
    color_map: str = "RdBu",
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw an L × L matrix of languages, each cell with its number.

    Args:
        matrix: Shape (L, L); NaN is left white.
        languages: Labels of rows and columns.
        title: Title of the picture.
        caption: What is compared, below the picture.
        limits: Values of the two ends of the colours; what lies beyond gets the colour of the end.
        color_map: Name of a matplotlib colour map.
        path: Where to write the picture.
        ax: Axes to draw into.

    Returns:
        The axes.
    """
    count = len(languages)
    side = 3.2 + 0.55 * count
    ax = _axes(ax, path, (side + 1.2, side))
    image = ax.imshow(matrix.numpy(), cmap=color_map, vmin=limits[0], vmax=limits[1])
    ax.figure.colorbar(
        image, ax=ax, shrink=0.8, extend="neither" if _inside(matrix, limits) else "both"
    )
    labels = [language_label(language) for language in languages]
    _set_labels(
        ax.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
    )
    _set_labels(ax.set_yticks(range(count), labels))
    ax.set_xlabel(caption, fontsize="small")
    ax.set_title(title)
    colors = image.to_rgba(matrix.numpy())
    for row in range(count if count <= _ANNOTATED else 0):
        for column in range(count):
            value = float(matrix[row, column])
            if value == value:  # not NaN
                red, green, blue, _ = colors[row, column]
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                ax.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                )
    return _finish(ax, path)


def plot_intervals(
    values: Mapping[str, Sequence[tuple[float, float, float]]],
    languages: Sequence[Language],
    *,
    title: str,
    ylabel: str,
    points: bool = False,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw bars with intervals, one group per language and one colour per series.

    Args:
        values: Series → (value, lower end, upper end) of each language; NaN ends draw no interval.
        languages: The languages.
        title: Title of the picture.
        ylabel: Label of the value axis.
        points: Draw points instead, on an axis that need not begin at 0, for values that differ by
            little.
        path: Where to write the picture.
        ax: Axes to draw into.

    Returns:
        The axes.
    """
    ax = _axes(ax, path, (max(6.5, 2.5 + 0.9 * len(languages)), 4.2))
    width = 0.8 / len(values)
    for index, (name, bars) in enumerate(values.items()):
        places = [group + (index - (len(values) - 1) / 2) * width for group in range(len(bars))]
        heights = [value for value, _, _ in bars]
        arms = [[v - low for v, low, _ in bars], [high - v for v, _, high in bars]]
        color = _COLORS[index % len(_COLORS)]
        if points:
            ax.errorbar(places, heights, yerr=arms, fmt="o", color=color, label=name, capsize=4)
            continue
        ax.bar(places, heights, width, color=color, label=name)
        ax.errorbar(places, heights, yerr=arms, fmt="none", ecolor="#333333", capsize=3)
    if points:
        ax.grid(axis="y", alpha=0.3)
    else:
        ax.axhline(0, color="#333333", linewidth=0.8)
    _set_labels(
        ax.set_xticks(range(len(languages)), [language_label(language) for language in languages])
    )
    ax.set_xlim(-0.5, len(languages) - 0.5)  # a language without a value keeps its place
    if len(languages) > 6:
        ax.tick_params(axis="x", labelrotation=45)
    if len(values) > 1:
        ax.legend()
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    return _finish(ax, path)


def plot_lines(
    lines: Mapping[str, Sequence[float]],
    x: Sequence[float] | Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line per series: values over layers, or over training steps.

    Args:
        lines: Series → values, as many as `x`.
        x: Numbers, or names in their order.
        title: Title of the picture.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the value axis.
        path: Where to write the picture.
        ax: Axes to draw into.

    Returns:
        The axes.
    """
    ax = _axes(ax, path, (7.5, 4.2))
    named = any(isinstance(place, str) for place in x)
    places: Sequence[Any] = range(len(x)) if named else x
    for index, (name, values) in enumerate(lines.items()):
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        ax.plot(places, values, label=name, markersize=4, color=color, marker=marker)
    if named:
        ax.set_xticks(
            places, [str(place) for place in x], rotation=45, ha="right", rotation_mode="anchor"
        )
    ax.axhline(0, color="#333333", linewidth=0.8)
    if len(lines) > 1:
        outside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if len(lines) > _INSIDE else {}
        _set_labels(ax.legend(**outside).get_texts())
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    return _finish(ax, path)


def _axes(ax: Axes | None, path: object, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "`.plot()` needs matplotlib. Found no such package. Install it with `pip install"
            " hf-meta-adapters[plots]`."
        ) from error
    if path is not None:  # a figure for a file must not stay in the global list of pyplot
        return Figure(figsize=size, layout="constrained").subplots()
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _finish(ax: Axes, path: str | os.PathLike[str] | None) -> Axes:
    if path is not None:
        cast("Figure", ax.figure).savefig(path, dpi=150)
    return ax


def _set_labels(labels: Sequence[Any]) -> None:
    """Give each label fonts that have its letters."""
    for label in labels:
        text: Text = getattr(label, "label1", label)
        if (families := families_for(text.get_text())) is not None:
            text.set_fontfamily(list(families))


def _inside(matrix: Tensor, limits: tuple[float, float]) -> bool:
    finite = matrix[~matrix.isnan()]
    return not len(finite) or bool(finite.min() >= limits[0] and finite.max() <= limits[1])

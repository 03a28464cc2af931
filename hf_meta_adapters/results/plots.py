"""How every diagnostic is drawn: heat maps, bars with intervals, lines over layers or steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, cast

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results._labels import families_for, language_label
from hf_meta_adapters.results.files import replacing
from hf_meta_adapters.results.tables import format_number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from numpy.typing import NDArray

__all__ = ["plot_heat_map", "plot_intervals", "plot_lines"]

# The palette of Okabe and Ito (2008), which readers with any color vision can tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_GRAY = "#333333"

# Pictures are small, so that their letters can still be read where a page is as narrow as a phone.
_SIZE = (5.6, 3.8)
_DOTS_PER_INCH = 200
_LETTERS_PER_INCH = 10  # of a title, at the default size of fonts

_MOST_INSIDE = 3  # a longer legend would lie on the lines
_MOST_LEVEL = 6  # more labels of languages would touch one another
_MOST_NUMBERED = 14  # the cells of a larger matrix have no room for numbers


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
    """Draw a matrix of languages as a heat map, with the number in each cell.

    Args:
        matrix: Shape (L, L); NaN stays white.
        languages: Labels of rows and columns.
        title: Title of the picture.
        caption: What is compared, below the picture.
        limits: Values at the two ends of the colors; values beyond get the color of the end.
        color_map: Name of a matplotlib color map.
        path: The file to write the picture to.
        ax: Axes to draw into.

    Returns:
        The axes.

    Raises:
        ConfigurationError: If matplotlib is not installed.
    """
    side = 2.6 + 0.5 * len(languages)
    ax = _axes(ax, path, (side + 1.2, side + 0.4))

    image = ax.imshow(matrix.numpy(), cmap=color_map, vmin=limits[0], vmax=limits[1])
    ax.figure.colorbar(image, ax=ax, shrink=0.8, extend=_ends_of_colors(matrix, limits))
    if len(languages) <= _MOST_NUMBERED:
        _write_numbers(ax, matrix, image.to_rgba(matrix.numpy()))

    places, labels = range(len(languages)), [language_label(language) for language in languages]
    ax.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, labels)
    _set_fonts(ax.get_xticklabels())
    _set_fonts(ax.get_yticklabels())

    # As the label of an axis, the caption is part of the layout. Lines are made to fit here, since
    # the layout keeps no room for what is wider than the matrix.
    letters = int(_LETTERS_PER_INCH * side)
    ax.set_xlabel(fill(caption, int(1.2 * letters)), fontsize="small")
    ax.set_title(fill(title, letters))
    return _finished(ax, path)


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
    """Draw values with intervals, one group per language and one color per series.

    Args:
        values: Series → (value, lower end, upper end) of each language. An interval with NaN ends
            is not drawn.
        languages: Labels of the groups.
        title: Title of the picture.
        ylabel: Label of the value axis.
        points: Draw points in place of bars, on an axis that need not begin at 0, for values that
            differ by little.
        path: The file to write the picture to.
        ax: Axes to draw into.

    Returns:
        The axes.

    Raises:
        ConfigurationError: If matplotlib is not installed.
    """
    width_of_all = max(_SIZE[0], 2.0 + 0.7 * len(languages))
    ax = _axes(ax, path, (width_of_all, _SIZE[1]))

    width = 0.8 / len(values)
    for index, (name, triples) in enumerate(values.items()):
        # The series stand next to one another, around the tick of their language.
        offset = (index - (len(values) - 1) / 2) * width
        places = [group + offset for group in range(len(triples))]
        heights = [value for value, _, _ in triples]
        below = [value - low for value, low, _ in triples]
        above = [high - value for value, _, high in triples]

        color = _COLORS[index % len(_COLORS)]
        if points:
            ax.errorbar(
                places, heights, yerr=[below, above], fmt="o", color=color, label=name, capsize=4
            )
        else:
            ax.bar(places, heights, width, color=color, label=name)
            ax.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor=_GRAY, capsize=3)

    if points:
        ax.grid(axis="y", alpha=0.3)
    else:
        ax.axhline(0, color=_GRAY, linewidth=0.8)

    ax.set_xticks(range(len(languages)), [language_label(language) for language in languages])
    _set_fonts(ax.get_xticklabels())
    ax.set_xlim(-0.5, len(languages) - 0.5)  # a language without a value keeps its place
    if len(languages) > _MOST_LEVEL:
        ax.tick_params(axis="x", labelrotation=45)

    if len(values) > 1:
        ax.legend()
    ax.set_ylabel(ylabel)
    ax.set_title(fill(title, int(_LETTERS_PER_INCH * width_of_all)))
    return _finished(ax, path)


def plot_lines(
    lines: Mapping[str, Sequence[float]],
    x: Sequence[float] | Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line per series: values over layers, or over training steps.

    Args:
        lines: Series → as many values as `x` has places.
        x: Numbers, or names in their order.
        title: Title of the picture.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the value axis.
        bands: Series → the (lower, upper) end of an interval or range at each place, drawn as a
            band of the color of its line.
        path: The file to write the picture to.
        ax: Axes to draw into.

    Returns:
        The axes.

    Raises:
        ConfigurationError: If matplotlib is not installed.
    """
    ax = _axes(ax, path, _SIZE)

    # Names are placed here: matplotlib would draw a name that comes twice in one place.
    places: Sequence[float] = [place for place in x if not isinstance(place, str)]
    if len(places) < len(x):
        places = range(len(x))
        labels = [str(name) for name in x]
        ax.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")

    for index, (name, values) in enumerate(lines.items()):
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        ax.plot(places, values, label=name, markersize=4, color=color, marker=marker)
        if bands and name in bands:
            lows, highs = zip(*bands[name], strict=True)
            ax.fill_between(places, lows, highs, color=color, alpha=0.2, linewidth=0)
    ax.axhline(0, color=_GRAY, linewidth=0.8)

    if len(lines) > _MOST_INSIDE:
        _set_fonts(ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1)).get_texts())
    elif len(lines) > 1:
        _set_fonts(ax.legend().get_texts())
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_title(fill(title, int(_LETTERS_PER_INCH * _SIZE[0])))
    return _finished(ax, path)


def _axes(ax: Axes | None, path: object, size: tuple[float, float]) -> Axes:
    """Return the caller's axes, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "`.plot()` needs matplotlib. Found no such package. Install it with `pip install"
            " hf-meta-adapters[plots]`."
        ) from error

    # pyplot keeps every figure until it is closed. Only one to be shown belongs there.
    if path is not None:
        return Figure(figsize=size, layout="constrained").subplots()

    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _finished(ax: Axes, path: str | os.PathLike[str] | None) -> Axes:
    """Write the picture to its file, if it has one."""
    # For type checkers only: a subfigure, which cannot be saved, has no file either.
    if path is None:
        return ax

    figure = cast("Figure", ax.figure)
    if isinstance(path, (str, os.PathLike)):
        with replacing(path, ending=Path(path).suffix) as new:
            figure.savefig(new, dpi=_DOTS_PER_INCH)
    else:
        figure.savefig(path, dpi=_DOTS_PER_INCH)  # an open file, such as a `BytesIO`
    return ax


def _set_fonts(labels: Iterable[Text]) -> None:
    """Give each label fonts that have its letters."""
    for label in labels:
        families = families_for(label.get_text())
        if families is not None:
            label.set_fontfamily(list(families))


def _ends_of_colors(matrix: Tensor, limits: tuple[float, float]) -> str:
    """Return whether the color bar ends in arrows, which say that values lie beyond its ends."""
    finite = matrix[~matrix.isnan()]
    if len(finite) and not (finite.min() >= limits[0] and finite.max() <= limits[1]):
        return "both"

    return "neither"


def _write_numbers(ax: Axes, matrix: Tensor, colors: NDArray[np.float64]) -> None:
    """Write its number into each cell, white on dark colors and black on light ones."""
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            if value != value:  # NaN
                continue

            # Luma of ITU-R BT.601: how bright a color looks to the eye.
            red, green, blue, _ = colors[row, column]
            color = "black"
            if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5:
                color = "white"
            ax.text(column, row, format_number(value, 2), ha="center", va="center", color=color)

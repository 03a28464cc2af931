"""Small forms of results: Markdown tables and JSON-ready lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from torch import Tensor

__all__ = ["as_lists", "format_number", "markdown_table", "markdown_to_html"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right.

    Example:
        >>> print(markdown_table(["language", "cosine"], [["en", "0.50"]]))
        | language | cosine |
        |:---|---:|
        | en | 0.50 |
    """
    rule = "|:---|" + "---:|" * (len(header) - 1)
    return "\n".join(
        [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
    )


def format_number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with a fixed count of decimals; `–` where it is NaN, and never a negative zero.

    Example:
        >>> format_number(-0.00001, 2), format_number(0.25, 1, sign=True), format_number(float("nan"))
        ('0.00', '+0.2', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def markdown_to_html(text: str) -> str:
    r"""Return tables as `markdown_table` makes them, and paragraphs, as HTML; of other marks only bold is known.

    Example:
        >>> print(markdown_to_html("| a | b |\n|:---|---:|\n| <c> | **1** |"))
        <div class="table"><table><tr><th>a</th><th>b</th></tr>
        <tr><td>&lt;c&gt;</td><td><strong>1</strong></td></tr></table></div>
    """
    found = []
    for block in text.split("\n\n"):
        lines = [
            re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(line))
            for line in block.splitlines()
        ]
        if not block.startswith("|"):
            found.append(f"<p>{' '.join(lines)}</p>")
            continue
        header, _, *rows = [line[2:-2].split(" | ") for line in lines]
        table = [_row(header, "th"), *(_row(row, "td") for row in rows)]
        found.append(f'<div class="table"><table>{chr(10).join(table)}</table></div>')
    return "\n".join(found)


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def as_lists(tensor: Tensor) -> Any:
    """Return a tensor as nested lists in which NaN is `None`, since JSON has no NaN."""
    return _without_nan(tensor.tolist())


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

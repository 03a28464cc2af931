"""Small forms of results: Markdown tables and JSON-ready lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["as_lists", "format_number", "markdown_table"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right.

    Example:
        >>> print(markdown_table(["language", "cosine"], [["en", "0.50"]]))
        | language | cosine |
        |:---|---:|
        | en | 0.50 |
    """
    rule = "|:---|" + "---:|" * (len(header) - 1)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def format_number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with a fixed count of decimals; `–` where it is NaN, and never a negative zero.

    Example:
        >>> format_number(-0.00001, 2), format_number(0.25, 1, sign=True), format_number(float("nan"))
        ('0.00', '+0.2', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def as_lists(tensor: Tensor) -> Any:
    """Return a tensor as nested lists in which NaN is `None`, since JSON has no NaN."""
    return _without_nan(tensor.tolist())


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

"""Small forms of results: Markdown tables, numbers in them, and lists for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = ["as_lists", "format_interval", "format_number", "markdown_table", "none_if_nan"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with the first column aligned left and the others right.

    Args:
        header: Names of the columns.
        rows: Cells of each row.

    Returns:
        The table, without a final newline.

    Example:
        >>> print(markdown_table(["language", "cosine"], [["en", "0.50"]]))
        | language | cosine |
        |:---|---:|
        | en | 0.50 |
    """
    rule = "|:---|" + "---:|" * (len(header) - 1)
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def format_number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with a fixed count of decimals; `–` for NaN, and never a negative zero.

    Args:
        value: The number.
        digits: Count of decimals.
        sign: Whether to write a plus sign as well.

    Returns:
        The text.

    Example:
        >>> format_number(-0.00001, 2), format_number(0.25, 1, sign=True), format_number(math.nan)
        ('0.00', '+0.2', '–')
    """
    if math.isnan(value):
        return "–"

    rounded = round(value, digits) + 0.0  # + 0.0 turns −0.0 into 0.0
    flag = "+" if sign else ""
    return f"{rounded:{flag}.{digits}f}"


def format_interval(
    value: float, low: float, high: float, digits: int = 3, *, sign: bool = False
) -> str:
    """Return a number with its interval in brackets.

    Args:
        value: The number.
        low: Lower end of the interval; NaN if there is no interval.
        high: Upper end.
        digits: Count of decimals.
        sign: Whether to write plus signs as well.

    Returns:
        The text.

    Example:
        >>> format_interval(0.5, -0.25, 1.25, digits=2, sign=True)
        '+0.50 [-0.25, +1.25]'
    """
    middle, lower, upper = (format_number(x, digits, sign=sign) for x in (value, low, high))
    if math.isnan(low):
        return middle

    return f"{middle} [{lower}, {upper}]"


def none_if_nan(value: float | None) -> float | None:
    """Return a number for JSON, which has no NaN.

    Example:
        >>> none_if_nan(0.5), none_if_nan(math.nan)
        (0.5, None)
    """
    if value is None or math.isnan(value):
        return None

    return value


def as_lists(tensor: Tensor | None) -> object:
    """Return a tensor as nested lists for JSON, in which NaN is `None`; `None` for no tensor.

    Args:
        tensor: A tensor of any shape.

    Returns:
        The lists; a number for a tensor without dimensions.
    """
    if tensor is None:
        return None

    return _without_nan(tensor.tolist())


def _without_nan(value: object) -> object:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]

    # Counts and flags pass as they are.
    if isinstance(value, float):
        return none_if_nan(value)
    return value

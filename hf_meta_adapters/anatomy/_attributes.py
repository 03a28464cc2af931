"""Attributes that no base class promises."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def attribute(owner: object, name: str, expected: type[Value]) -> Value | None:
    """Return an attribute that exists and has the expected type; `None` otherwise.

    Each architecture names its sizes, and each adapter and quantization library its inner modules,
    without a base class that could be asked for them.

    Example:
        >>> from torch import nn
        >>> attribute(nn.Linear(2, 3), "out_features", int)
        3
        >>> attribute(nn.ReLU(), "out_features", int)
    """
    value = getattr(owner, name, None)
    if isinstance(value, expected):
        return value

    return None

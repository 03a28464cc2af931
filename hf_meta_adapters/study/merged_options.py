"""Options of an arm of a study over those of all arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["merged_options"]


def merged_options(options: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with others over them, those of each group one by one.

    Args:
        options: The options; one that is itself a mapping is a group.
        over: Options that win.

    Returns:
        All of them.

    Example:
        >>> merged_options({"rate": 1, "training": {"a": 1, "b": 2}}, {"training": {"b": 3}})
        {'rate': 1, 'training': {'a': 1, 'b': 3}}
    """
    merged = dict(options)
    for name, value in over.items():
        if isinstance(value, Mapping):
            value = {**merged.get(name, {}), **value}
        merged[name] = value
    return merged

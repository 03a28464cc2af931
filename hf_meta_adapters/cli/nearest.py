"""What a wrong name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Collection[str], *, prefix: str = "") -> str:
    """Return the question of an error that names what is most like a wrong name.

    Args:
        name: The wrong name.
        known: The right names.
        prefix: What stands before a name where it is used, such as `--`.

    Returns:
        The question; empty if nothing is near.

    Example:
        >>> did_you_mean("max_stepz", ["max_steps", "seed"], prefix="--")
        'Did you mean `--max_steps`?'
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    if not matches:
        return ""

    return f"Did you mean `{prefix}{matches[0]}`?"

"""Digests of examples: equal rows have equal digests, whatever container their values come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(example: Any) -> bytes:
    """16 bytes that depend on the content of a row alone.

    Args:
        example: A row: a mapping of columns, or a text. Of a tokenised row, the `input_ids` alone count.

    Returns:
        The digest.
    """
    if isinstance(example, Mapping) and "input_ids" in example:
        example = example["input_ids"]
    text = json.dumps(_plain(example), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _plain(value: Any) -> Any:
    """The value in types that JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)

"""Long sequences in windows, so that nothing is cut off silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_meta_adapters.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["length_limit", "special_tokens_around", "windows"]

_UNSET = 1_000_000  # a tokenizer without a limit says 1e30
_DEFAULT = 512


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Return `max_length`, or else the tokenizer's own limit, or else 512.

    Args:
        tokenizer: The tokenizer.
        max_length: Tokens in a row, special tokens included.

    Returns:
        The limit.

    Raises:
        ConfigurationError: If there is no room for text beside the special tokens.
    """
    own = tokenizer.model_max_length
    limit = max_length if max_length is not None else own if own < _UNSET else _DEFAULT
    special = tokenizer.num_special_tokens_to_add()
    if limit <= special + 1:
        raise ConfigurationError(
            f"`max_length` must leave room for at least two tokens of text beside the {special}"
            f" special tokens. Found {limit}. Write for example 128."
        )
    return limit


def special_tokens_around(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text.

    Args:
        tokenizer: The tokenizer.
        text: Any text that is not empty.

    Returns:
        The ids before, and those after.
    """
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    full = tokenizer(text, verbose=False)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def windows(sizes: Sequence[int], room: int, overlap: int = 0) -> list[tuple[range, range]]:
    """Cut a sequence of items into windows that fit, and give each item to the window that shows most around it.

    Args:
        sizes: Tokens of each item (a word; 1 for a sequence of tokens).
        room: Tokens in a window. An item that is larger stands alone in its window.
        overlap: Tokens at most that a window shares with the one before.

    Returns:
        For each window the items in it and, among them, those that belong to it. Every item belongs
        to one window.

    Example:
        >>> windows([1] * 5, room=3)
        [(range(0, 3), range(0, 3)), (range(3, 5), range(3, 5))]
        >>> windows([1] * 5, room=4, overlap=2)
        [(range(0, 4), range(0, 3)), (range(2, 5), range(3, 5))]
    """
    result: list[tuple[range, range]] = []
    begin = owned = 0
    while owned < len(sizes):
        end, used = begin + 1, sizes[begin]
        while end < len(sizes) and used + sizes[end] <= room:
            used += sizes[end]
            end += 1
        following, shared = end, 0
        while (
            end < len(sizes) and following - 1 > begin and shared + sizes[following - 1] <= overlap
        ):
            following -= 1
            shared += sizes[following]
        boundary = (following + end + 1) // 2
        if boundary > owned:
            result.append((range(begin, end), range(owned, boundary)))
        begin, owned = following, boundary
    return result

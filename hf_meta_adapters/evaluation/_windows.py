"""Long sequences in windows, so that nothing is cut off silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_meta_adapters.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["length_limit", "special_tokens_around", "windows"]

_UNLIMITED = 1_000_000  # a tokenizer without a limit says 1e30
_DEFAULT = 512


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Return `max_length`, or else the tokenizer's own limit, or else 512.

    Args:
        tokenizer: The tokenizer.
        max_length: Tokens in a row, special tokens included.

    Returns:
        The limit.

    Raises:
        ConfigurationError: If the special tokens leave no room for text.
    """
    limit = max_length
    if limit is None:
        limit = tokenizer.model_max_length
        if limit >= _UNLIMITED:
            limit = _DEFAULT

    # Room for two tokens: a window of one would show it without any context.
    special = tokenizer.num_special_tokens_to_add()
    if limit <= special + 1:
        raise ConfigurationError(
            f"`max_length` must leave room for at least two tokens of text besides the {special}"
            f" special tokens. Found {limit}. Use for example 128."
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
    # Found by comparison, since no attribute of a tokenizer tells them.
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    full = tokenizer(text, verbose=False)["input_ids"]

    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def windows(sizes: Sequence[int], room: int, overlap: int = 0) -> list[tuple[range, range]]:
    """Cut a sequence into windows that fit, each item owned by the window with most context for it.

    Args:
        sizes: Tokens of each item (a word; 1 for a sequence of tokens).
        room: Tokens in a window. A larger item stands alone in its window.
        overlap: Tokens at most that a window shares with the one before.

    Returns:
        For each window the items in it and, among them, those that it owns. Every item is owned by
        one window.

    Example:
        >>> windows([1] * 5, room=3)
        [(range(0, 3), range(0, 3)), (range(3, 5), range(3, 5))]
        >>> windows([1] * 5, room=4, overlap=2)
        [(range(0, 4), range(0, 3)), (range(2, 5), range(3, 5))]
    """
    cut: list[tuple[range, range]] = []
    begin = owned = 0

    while owned < len(sizes):
        end = _end_of_window(sizes, begin, room)
        following = _begin_of_next(sizes, begin, end, overlap)

        # Both windows show the items from `following` to `end`: the first half of them has more
        # context in this window, the second half in the next.
        boundary = (following + end + 1) // 2
        if boundary > owned:
            cut.append((range(begin, end), range(owned, boundary)))
        begin, owned = following, boundary

    return cut


def _end_of_window(sizes: Sequence[int], begin: int, room: int) -> int:
    """Return the end of the longest window that fits, of at least one item."""
    end = begin + 1
    used = sizes[begin]
    while end < len(sizes) and used + sizes[end] <= room:
        used += sizes[end]
        end += 1

    return end


def _begin_of_next(sizes: Sequence[int], begin: int, end: int, overlap: int) -> int:
    """Return where the next window begins: behind the first item of this one, to advance."""
    following = end
    if end == len(sizes):
        return following

    shared = 0
    while following - 1 > begin and shared + sizes[following - 1] <= overlap:
        following -= 1
        shared += sizes[following]

    return following

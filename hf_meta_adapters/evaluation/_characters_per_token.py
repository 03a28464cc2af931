"""How many characters of a text each of its tokens stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["characters_by_decoding", "characters_by_offsets"]


def characters_by_offsets(length: int, offsets: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Share the characters of a text out among its n tokens, by the offsets of a fast tokenizer.

    A character that k tokens cover (the bytes of one letter) counts 1/k for each. A character that
    none covers (a space, a stripped mark) counts for the token after it, or for the last one. So
    the shares sum to `length`, whatever the tokenizer, and a score per character can be compared
    between tokenizers.

    Args:
        length: Characters (code points) of the text.
        offsets: Start and end of each token, in the order of the text.

    Returns:
        Characters of each token, shape (n,).

    Example:
        >>> characters_by_offsets(5, [(0, 2), (3, 5)]).tolist()  # "to be"
        [2.0, 3.0]
    """
    if not offsets:
        return np.zeros(0)

    # How many tokens cover each character: +1 where a token starts, −1 where it ends, summed up.
    starts, ends = np.asarray(offsets, dtype=np.int64).T
    changes = np.zeros(length + 1, dtype=np.int64)
    np.add.at(changes, starts, 1)
    np.add.at(changes, ends, -1)
    covers = np.cumsum(changes)[:length]

    # The share of a token is the sum of 1/k over its characters: a difference of prefix sums.
    prefix_sums = np.concatenate([[0.0], np.cumsum(1.0 / np.maximum(covers, 1))])
    shares = prefix_sums[ends] - prefix_sums[starts]

    # The search needs ascending starts, which not every tokenizer gives: hence the running maximum.
    uncovered = np.flatnonzero(covers == 0)
    next_token = np.searchsorted(np.maximum.accumulate(starts), uncovered)
    np.add.at(shares, np.minimum(next_token, len(shares) - 1), 1.0)
    return shares


def characters_by_decoding(length: int, tokens: Sequence[str]) -> NDArray[np.float64]:
    """Share the characters of a text out among its n tokens, in proportion to decoded lengths.

    The fallback for tokenizers without offsets. The shares sum to `length` here too, but a token
    that stands for more or fewer characters than it is decoded to gets a wrong share.

    Args:
        length: Characters of the text.
        tokens: Each token, decoded alone.

    Returns:
        Characters of each token, shape (n,).

    Example:
        >>> characters_by_decoding(5, ["to", "be"]).tolist()
        [2.5, 2.5]
    """
    # A token that decodes to nothing, such as a byte of a letter, still stands for something.
    sizes = np.array([max(len(token), 1) for token in tokens], dtype=np.float64)
    if not len(sizes):
        return sizes

    return sizes * (length / sizes.sum())

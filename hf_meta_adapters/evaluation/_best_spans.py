"""The best spans of a sequence, by the logits of their first and last token."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Span", "best_spans"]

Span: TypeAlias = tuple[float, int, int]
"""The score of a span, and where it begins and ends: first and last token, or characters."""


def best_spans(start: Tensor, end: Tensor, *, longest: int, count: int) -> list[Span]:
    """Return the `count` spans i ≤ j < i + longest with the largest s_i + e_j, the best one first.

    Args:
        start: Logits s of the first token, shape (n,).
        end: Logits e of the last token, shape (n,).
        longest: Tokens at most in a span.
        count: How many spans.

    Returns:
        Score, first and last token of each; fewer than `count` if there are not so many.

    Example:
        >>> best_spans(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), longest=2, count=2)
        [(2.0, 1, 1), (1.0, 0, 0)]
    """
    n = len(start)
    # The band of pairs (i, j) with 0 ≤ j − i < longest.
    allowed = torch.ones(n, n, dtype=torch.bool, device=start.device).triu().tril(longest - 1)

    scores = (start[:, None] + end[None, :]).masked_fill(~allowed, -torch.inf).flatten()
    values, indices = scores.topk(min(count, int(allowed.sum())))

    spans = []
    for value, index in zip(values.tolist(), indices.tolist(), strict=True):
        first, last = divmod(index, n)
        spans.append((value, first, last))

    return spans

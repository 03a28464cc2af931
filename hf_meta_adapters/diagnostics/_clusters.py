"""Average-linkage clustering of a handful of languages."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["average_linkage"]


def average_linkage(similarity: Tensor, threshold: float) -> list[list[int]]:
    """Return groups whose mean similarity is at least a threshold, merged greedily (UPGMA).

    Sokal and Michener (1958).

    Args:
        similarity: Symmetric, shape (L, L). NaN counts as no similarity at all.
        threshold: Two groups are merged, the most similar first, as long as the mean over their
            pairs is at least this.

    Returns:
        Indices of each group, in ascending order.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]])
        >>> average_linkage(similarity, 0.5)
        [[0, 1], [2]]
    """
    pairs = similarity.nan_to_num(nan=-torch.inf)
    groups = [[index] for index in range(len(similarity))]

    while len(groups) > 1:
        linkage = {
            (a, b): float(pairs[groups[a]][:, groups[b]].mean())
            for a, b in combinations(range(len(groups)), 2)
        }
        a, b = max(linkage, key=lambda pair: linkage[pair])
        if linkage[a, b] < threshold:
            break
        # b > a: taking out the second group leaves the index of the first one valid.
        groups[a] = sorted(groups[a] + groups.pop(b))

    return sorted(groups)

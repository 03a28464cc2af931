"""Resampling for bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["check_bootstrap", "percentile_interval", "resampled_counts", "resampled_means"]

_MOST_COUNTS = 1 << 22  # that exist at a time: 32 MiB


def resampled_counts(size: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Return how often each of n units is drawn by n − 1 draws with replacement (Efron 1979).

    One draw fewer than usual makes the variance of a resampled mean s²/n with the unbiased s²; with
    n draws it would be (n − 1)/n of that.

    Args:
        size: n, at least 2.
        resamples: R.
        generator: Source of the draws.

    Returns:
        Counts, float64, shape (R, n).
    """
    drawn = torch.randint(size, (resamples, size - 1), generator=generator)
    ones = torch.ones(resamples, size - 1, dtype=torch.float64)
    return torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(1, drawn, ones)


def resampled_means(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return means of a matrix whose rows and columns are both resampled (Owen 2007).

    Args:
        values: Shape (S, E), such as seeds × examples. A dimension of size 1 is not resampled.
        resamples: R.
        generator: Source of the draws.

    Returns:
        Means, shape (R,).
    """
    seeds, examples = values.shape
    at_once = max(1, _MOST_COUNTS // (seeds + examples))

    means: list[Tensor] = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        # Rows are drawn before columns: the order of the draws is part of what a seed gives.
        rows = _counts_or_ones(seeds, count, generator)
        columns = _counts_or_ones(examples, count, generator)

        # An entry counts as often as its row times as often as its column.
        totals = ((rows @ values) * columns).sum(1)
        means.append(totals / (rows.sum(1) * columns.sum(1)))

    return torch.cat(means)


def percentile_interval(values: Tensor, confidence: float) -> Tensor:
    """Return the central interval that holds a share `confidence` of resampled values, without NaN.

    Args:
        values: Shape (R, ...).
        confidence: The share, such as 0.95.

    Returns:
        Lower and upper ends, shape (..., 2).

    Example:
        >>> percentile_interval(torch.arange(101.0), 0.9)
        tensor([ 5., 95.])
    """
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=values.dtype)
    return torch.nanquantile(values, ends, dim=0).movedim(0, -1)


def check_bootstrap(resamples: int, confidence: float) -> None:
    """Refuse settings of a bootstrap that cannot work.

    Args:
        resamples: Number of resamples.
        confidence: Coverage.

    Raises:
        ConfigurationError: If one is out of range.
    """
    if resamples < 0:
        raise ConfigurationError(
            f"`resamples` must not be negative. Found {resamples}. Use 0 for no intervals."
        )

    if not 0 < confidence < 1:
        raise ConfigurationError(
            f"`confidence` must be in (0, 1). Found {confidence}. Use for example 0.95."
        )


def _counts_or_ones(size: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Return resampled counts; ones for a single unit, of which n − 1 draws would be none."""
    if size == 1:
        return torch.ones(resamples, 1, dtype=torch.float64)

    return resampled_counts(size, resamples, generator)

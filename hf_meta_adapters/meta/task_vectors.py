"""Several models that were trained from one: their weighted mean, and TIES (Yadav et al. 2023).

Both go through one tensor of a model at a time, so that models are read one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Reader = Callable[[], Iterable[Tensor]]
"""Reads the same tensor of each model, one after another; it may be called again."""


@torch.no_grad()
def weighted_mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Compute Σ_i w_i θ_i / Σ_i w_i, with one θ_i at a time in memory beside the result.

    The mean of equal values is that value, bit for bit: what no model has changed stays.

    Args:
        tensors: θ_i, of one shape.
        weights: w_i, positive.

    Returns:
        The mean, in the type of the first tensor.

    Example:
        >>> weighted_mean([torch.tensor([1.0, 4.0]), torch.tensor([5.0, 4.0])], [3, 1])
        tensor([2., 4.])
    """
    mean, dtype, total = torch.empty(0), torch.float32, 0.0

    for tensor, weight in zip(tensors, weights, strict=True):
        if total == 0:
            # in half precision the rounding of each term would add up
            dtype = tensor.dtype
            mean = tensor.to(torch.promote_types(dtype, torch.float32), copy=True)
        else:
            mean += (tensor.to(mean.dtype) - mean) * (weight / (total + weight))
        total += weight

    return mean.to(dtype)


@torch.no_grad()
def ties(base: Tensor, read: Reader, weights: Sequence[float], density: float) -> Tensor:
    """Compute θ + τ of TIES, in which only changes of the elected sign have a say.

    τ_i = θ_i − θ is *trimmed* to its largest entries; the sign of Σ_i τ_i is *elected* for each
    entry; and τ is the mean of those w_i τ_i that have this sign. Each tensor is trimmed by itself,
    as PEFT does it, so that no tensor is left out as a whole.

    Args:
        base: θ, from which all models were trained.
        read: Reads θ_i; called twice.
        weights: w_i; 1 for each is the method of the paper.
        density: The share of the entries of τ_i that is kept, from 0 to 1.

    Returns:
        The merged tensor, in the type of the base.

    Example:
        >>> models = [torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, -3.0, 0.0])]
        >>> ties(torch.zeros(3), lambda: models, [1, 1], density=1.0)
        tensor([ 2., -3.,  0.])
    """
    start = base.to(torch.promote_types(base.dtype, torch.float32))

    def changes() -> Iterable[Tensor]:
        return (trimmed(tensor.to(start.dtype) - start, density) for tensor in read())

    total = torch.zeros_like(start)
    for change in changes():
        total += change

    # where two changes are each other's opposite, the positive one is elected, as in PEFT
    elected = torch.where(total >= 0, 1, -1)
    merged, count = torch.zeros_like(start), torch.zeros_like(start)
    for change, weight in zip(changes(), weights, strict=True):
        agrees = change.sign() == elected
        merged += weight * change * agrees
        count += agrees

    return (start + merged / count.clamp(min=1)).to(base.dtype)


def trimmed(change: Tensor, density: float) -> Tensor:
    """The largest entries of a tensor by magnitude, `int(density * size)` of them, zero elsewhere.

    Args:
        change: The tensor.
        density: The share that is kept.

    Example:
        >>> trimmed(torch.tensor([1.0, -4.0, 2.0, 0.5]), density=0.5)
        tensor([ 0., -4.,  2.,  0.])
    """
    flat = change.reshape(-1)
    kept = flat.abs().topk(int(density * flat.numel())).indices

    sparse = torch.zeros_like(flat)
    sparse[kept] = flat[kept]
    return sparse.view_as(change)

"""What the checks of a loss on its first batch share: a tolerance, and the same random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.steps.counted_labels import counted

COARSE = 1e-2
"""The tolerance between losses that are computed in half precision."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def tolerance(dtype: torch.dtype) -> float:
    """By how much, relative or absolute, two computations of one loss may differ."""
    return _TOLERANCE.get(dtype, COARSE)


def with_labels(batch: Batch) -> Batch:
    """The batch, with made-up labels if it has none: two means over nothing are always alike."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or counted(batch) != (0, 0):
        return batch

    # 0 and 1, which every head predicts
    made_up = torch.arange(labels.numel(), device=labels.device).view(labels.shape) % 2
    return {**batch, "labels": made_up.to(labels.dtype)}


def random_state_kept(tensor: Tensor) -> AbstractContextManager[None]:
    """A context that leaves the random state of the CPU and of the tensor's device as it was."""
    devices = [tensor.device] if tensor.is_cuda else []
    return torch.random.fork_rng(devices)

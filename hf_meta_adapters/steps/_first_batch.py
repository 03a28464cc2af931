"""What the checks of a loss on its first batch share: a tolerance, and the same random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

COARSE = 1e-2
"""The tolerance between losses that are computed in half precision."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def tolerance(dtype: torch.dtype) -> float:
    """By how much, relative or absolute, two computations of one loss may differ."""
    return _TOLERANCE.get(dtype, COARSE)


def random_state_kept(tensor: Tensor) -> AbstractContextManager[None]:
    """A context that leaves the random state of the CPU and of the tensor's device as it was."""
    devices = [tensor.device] if tensor.is_cuda else []
    return torch.random.fork_rng(devices)

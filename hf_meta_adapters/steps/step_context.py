"""How the passes of a step are evaluated, scaled and summed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Autocast
from hf_meta_adapters.steps.losses import LossFunction


@dataclass(frozen=True)
class StepContext:
    """How the passes of a step are evaluated, scaled and summed over processes.

    Args:
        loss_function: Evaluates a batch; `None` takes the loss that the model returns.
        autocast: Makes the context of an evaluation.
        all_reduce: Sums over processes in place; `None` on a single process.
        loss_scale: A factor of what goes backward, 0-d; `None` for 1.
    """

    loss_function: LossFunction | None
    autocast: Autocast
    all_reduce: AllReduce | None
    loss_scale: Tensor | None

    def precision(self, device: torch.device) -> torch.dtype | None:
        """The dtype in which operations are evaluated; `None` if it is that of their arguments."""
        with self.autocast():
            # Asked of PyTorch, since the caller may have entered an autocast around the whole step.
            if torch.is_autocast_enabled(device.type):
                return torch.get_autocast_dtype(device.type)
        return None

"""Models whose gradients are known."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """The gradient of its loss is the vector in the batch, whatever the weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, gradient: Tensor) -> dict[str, Tensor]:
        return {"loss": self.weight @ gradient}


def linear_batches(gradients: Tensor) -> list[dict[str, Tensor]]:
    """A batch for each row."""
    return [{"gradient": row} for row in gradients]

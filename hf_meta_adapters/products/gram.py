"""Inner products of long vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gram"]

_COLUMNS = 1 << 20  # coordinates that are converted to float64 at a time


def gram(rows: Sequence[Tensor]) -> Tensor:
    """Return the inner products `⟨x_i, x_j⟩`, summed in float64, on the CPU.

    Args:
        rows: N vectors of the same length, of any type.

    Returns:
        Products, shape (N, N).

    Example:
        >>> gram([torch.tensor([True, True]), torch.tensor([False, True])])
        tensor([[2., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)

    # In chunks: all rows at once would take a second copy of them, twice as large.
    for start in range(0, rows[0].numel(), _COLUMNS):
        chunk = torch.stack([row[start : start + _COLUMNS] for row in rows]).double()
        total += chunk @ chunk.T

    return total.cpu()

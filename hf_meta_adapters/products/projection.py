"""A seeded random projection that costs one pass over the vector and stores nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["project"]

_CHUNK = 1 << 16  # coordinates whose signs and places exist at a time: 30 bytes each
_LONG_ROW = 1 << 12


def project(vector: Tensor, dimension: int, *, seed: int) -> Tensor:
    """Return `S x`, a random projection to k dimensions with `E⟨Sx, Sy⟩ = ⟨x, y⟩`.

    A count sketch with random shifts: x is cut into rows of k coordinates; every coordinate gets a
    random sign, every row is rotated by a random shift, and the rows are summed. Two coordinates of
    different rows meet with probability 1/k, and two of the same row never. As for the count sketch
    (Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009), for any x and y,

        E (⟨Sx, Sy⟩ − ⟨x, y⟩)² ≤ 2/k · ‖x‖² ‖y‖²

    The sum of projections of several vectors, each with a seed of its own, is a projection of their
    concatenation, for which the same holds. A seed gives the same S for all vectors of the same
    length on the same kind of device.

    Args:
        vector: x, shape (P,), float32 or float64.
        dimension: k. Products of vectors no longer than k are exact.
        seed: Seed of signs and shifts.

    Returns:
        `S x`, shape (k,).

    Example:
        >>> x = torch.randn(100_000)
        >>> bool((project(x, 4096, seed=0).norm() / x.norm() - 1).abs() < 0.1)
        True
    """
    generator = torch.Generator(vector.device).manual_seed(seed)
    signs_of_byte = _signs_of_byte(vector)
    rows_at_once = max(1, _CHUNK // dimension)
    total = vector.new_zeros(dimension)

    for chunk in vector.split(rows_at_once * dimension):
        rows = functional.pad(chunk, (0, -chunk.numel() % dimension)).reshape(-1, dimension)

        # A byte holds the signs of eight coordinates: drawing is what would take the time.
        number = -(-rows.numel() // 8)
        drawn = torch.empty(number, dtype=torch.uint8, device=vector.device)
        drawn.random_(0, 256, generator=generator)
        signs = signs_of_byte.index_select(0, drawn.int()).view(-1)[: rows.numel()]

        # A shift per row in place of a place per coordinate: fewer draws, and no atomic additions,
        # whose order would change the sum from run to run on a GPU.
        shifts = torch.randint(dimension, (len(rows), 1), generator=generator, device=vector.device)
        _add_rotated_(total, rows, signs.view(rows.shape), shifts)

    return total


def _signs_of_byte(like: Tensor) -> Tensor:
    """The signs that each byte stands for, (256, 8)."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return (2 * bits - 1).to(like)


def _add_rotated_(total: Tensor, rows: Tensor, signs: Tensor, shifts: Tensor) -> None:
    """In place, total ← total + the sum of rows · signs, each rotated by its shift."""
    dimension = rows.shape[1]

    # On a CPU, long slices are added faster than coordinates are gathered.
    if rows.device.type == "cpu" and dimension >= _LONG_ROW:
        for row, sign, shift in zip(rows, signs, shifts.flatten().tolist(), strict=True):
            total[: dimension - shift].addcmul_(row[shift:], sign[shift:])
            total[dimension - shift :].addcmul_(row[:shift], sign[:shift])
        return

    columns = torch.arange(dimension, device=rows.device)
    total += (rows * signs).gather(1, (columns + shifts) % dimension).sum(0)

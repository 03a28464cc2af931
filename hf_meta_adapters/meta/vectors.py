"""Vectors in parameter space: lists of tensors, one entry per parameter, `None` where there is no gradient.

`None` is kept apart from zero: an optimizer leaves a parameter without a gradient alone, but decays
one whose gradient is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Vector: TypeAlias = list[Tensor | None]


def gradient(loss: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> Vector:
    """∇ of the scalar `loss` for `parameters`; `None` where the loss does not depend on a parameter."""
    if not parameters:
        return []
    return list(
        torch.autograd.grad(loss, list(parameters), create_graph=create_graph, allow_unused=True)
    )


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor only, as under FSDP2."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """The tensor, put together if it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def local(tensor: Tensor) -> Tensor:
    """What this process holds of the tensor, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def detached(vector: Vector) -> Vector:
    """The same values without their graph."""
    return [None if entry is None else entry.detach() for entry in vector]


def add_(total: Vector, term: Vector, scale: float = 1.0) -> None:
    """In place, total ← total + scale · term; an absent entry of `total` becomes a new tensor."""
    both = [k for k, entry in enumerate(term) if entry is not None and total[k] is not None]
    if both:
        torch._foreach_add_(present(total, both), present(term, both), alpha=scale)
    for k, entry in enumerate(term):
        if entry is not None and total[k] is None:
            total[k] = entry.detach() * scale


def present(vector: Vector, keep: Sequence[int] | None = None) -> list[Tensor]:
    """The entries that are not `None`, or those at the positions `keep`."""
    chosen = vector if keep is None else [vector[k] for k in keep]
    return [entry for entry in chosen if entry is not None]


def scaled(vector: Vector, factor: Tensor | float) -> Vector:
    """Factor · vector."""
    return [None if entry is None else entry * factor for entry in vector]


def times(vector: Vector, diagonal: Vector | None) -> Vector:
    """diag(d) · vector; `None` stands for the identity."""
    if diagonal is None:
        return vector
    return [
        None if v is None or d is None else v * d.to(v.device)
        for v, d in zip(vector, diagonal, strict=True)
    ]


def dot(left: Vector, right: Vector) -> Tensor:
    """⟨left, right⟩ as a 0-d tensor that autograd can follow, over the entries that both have."""
    terms = [
        (x * y).sum() for x, y in zip(left, right, strict=True) if x is not None and y is not None
    ]
    if not terms:
        return torch.zeros(())
    return whole(torch.stack(terms).sum())


def norm(vector: Vector) -> Tensor:
    """‖vector‖₂ as a 0-d tensor."""
    entries = present(vector)
    if not entries:
        return torch.zeros(())
    return whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(entries))))

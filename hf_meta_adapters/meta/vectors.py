"""Vectors in parameter space: lists of tensors, one entry per parameter.

An entry is `None` where there is no gradient. `None` is not zero: an optimizer leaves a parameter
without a gradient alone, but decays one whose gradient is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Vector: TypeAlias = list[Tensor | None]

_TINY = 1e-38
"""The least denominator: it keeps 0/0 away, and is far below any norm that matters."""


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds only a part of the tensor, as under FSDP2."""
    # Told by an attribute: importing DTensor for `isinstance` would cost every run seconds.
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """The tensor, put together if it is sharded."""
    if is_sharded(tensor):
        return tensor.full_tensor()
    return tensor


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that this process holds, in the same memory."""
    if is_sharded(tensor):
        return tensor.to_local()
    return tensor


def sharded_as(part: Tensor, like: Tensor) -> Tensor:
    """The part that this process holds, as a tensor that is sharded like another of its shape."""
    if not is_sharded(like):
        return part

    # Of the sharded tensor's own class, for the reason above. The shape is that of the whole:
    # shards may differ in size.
    return type(like).from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def absent(parameters: Sequence[object]) -> Vector:
    """A vector without any entry, to which gradients of the parameters can be added."""
    return [None for _ in parameters]


def present(vector: Vector, positions: Sequence[int] | None = None) -> list[Tensor]:
    """The entries that are not `None`, of the whole vector or of some positions."""
    entries = vector if positions is None else [vector[position] for position in positions]
    return [entry for entry in entries if entry is not None]


def mapped(vector: Vector, function: Callable[[Tensor], Tensor]) -> Vector:
    """The vector with the function applied to every entry; absent entries stay absent."""
    return [None if entry is None else function(entry) for entry in vector]


def detached(vector: Vector) -> Vector:
    """The same values without their graph."""
    return mapped(vector, Tensor.detach)


def scaled(vector: Vector, factor: Tensor | float) -> Vector:
    """Factor · vector."""
    return mapped(vector, lambda entry: entry * factor)


def times(vector: Vector, diagonal: Vector | None) -> Vector:
    """diag(d) · vector; `None` stands for the identity."""
    if diagonal is None:
        return vector

    product: Vector = []

    for entry, factor in zip(vector, diagonal, strict=True):
        if entry is None or factor is None:
            product.append(None)
        else:
            # v may be kept on the CPU (`cpu_offload`), the diagonal never is
            product.append(entry * factor.to(entry.device))

    return product


def add_(total: Vector, term: Vector, scale: float = 1.0) -> None:
    """In place, total ← total + scale · term; an absent entry of `total` becomes a new tensor."""
    common = [
        position
        for position, entry in enumerate(term)
        if entry is not None and total[position] is not None
    ]

    # one fused kernel instead of one for each parameter
    if common:
        torch._foreach_add_(present(total, common), present(term, common), alpha=scale)

    new = [
        position
        for position, entry in enumerate(term)
        if entry is not None and total[position] is None
    ]
    if new:
        copies = torch._foreach_mul([entry.detach() for entry in present(term, new)], scale)
        for position, copy in zip(new, copies, strict=True):
            total[position] = copy


def owned(vector: Vector) -> Vector:
    """The same values in memory that no other tensor uses, so that they can change in place.

    Autograd may return one tensor for several parameters, or a number that is expanded.
    """
    known: set[int] = set()

    def own(entry: Tensor) -> Tensor:
        if is_sharded(entry):
            return entry.clone()

        storage = entry.untyped_storage()
        is_whole = storage.nbytes() == entry.nbytes and entry.is_contiguous()

        # By the storage itself: a tensor without values has one as well, but no data pointer.
        if not is_whole or storage._cdata in known:
            return entry.clone(memory_format=torch.contiguous_format)

        known.add(storage._cdata)
        return entry

    return mapped(detached(vector), own)


def gradient(loss: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> Vector:
    """∇ of a scalar for the parameters; `None` where it does not depend on a parameter."""
    if not parameters:
        return []

    return list(
        torch.autograd.grad(loss, list(parameters), create_graph=create_graph, allow_unused=True)
    )


def dot(left: Vector, right: Vector) -> Tensor:
    """⟨left, right⟩ over the entries that both have, 0-d; autograd can follow it."""
    terms = [
        (x * y).sum() for x, y in zip(left, right, strict=True) if x is not None and y is not None
    ]
    if not terms:
        return torch.zeros(())

    return whole(torch.stack(terms).sum())


def norm(vector: Vector) -> Tensor:
    """‖vector‖₂, 0-d."""
    entries = present(vector)
    if not entries:
        return torch.zeros(())

    return whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(entries))))


# What follows divides by norms that may be zero. `torch.where` chooses on the device: a Python `if`
# would make the host wait for the value.


def cosine(inner_product: Tensor, norms: Tensor) -> Tensor:
    """⟨x, y⟩ / (‖x‖ ‖y‖), or 0 where a vector is zero and there is no angle.

    Args:
        inner_product: ⟨x, y⟩, 0-d.
        norms: ‖x‖ ‖y‖, 0-d.

    Returns:
        The cosine, 0-d.
    """
    quotient = inner_product.to(norms) / norms.clamp_min(_TINY)
    return torch.where(norms > 0, quotient, norms)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient of two norms, 0-d; of nothing to nothing it is 0."""
    return torch.where(numerator > 0, numerator / denominator.clamp_min(_TINY), numerator)


def bounded(vector: Vector, length: Tensor) -> Vector:
    """The vector, scaled down to a norm of at most `length`, 0-d."""
    present_length = norm(vector)
    shrink = length / present_length.clamp_min(_TINY)
    factor = torch.where(present_length > length, shrink, torch.ones_like(present_length))
    return scaled(vector, factor)

"""Removing from a gradient what opposes another one: the projection of the shared update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from hf_meta_adapters.anatomy.layers import layer_of
from hf_meta_adapters.meta.vectors import Vector, dot, norm, ratio

Groups: TypeAlias = Literal["model", "layer"]


def projected(
    gradient: Vector, target: Vector, names: Sequence[str], groups: Groups
) -> tuple[Vector, Tensor]:
    """G − min(⟨g, v⟩, 0) / ‖v‖² · v: the gradient without its part that opposes the target.

    A step along the result does not raise the loss of the target, to first order. Where ⟨g, v⟩ ≥ 0,
    g stays as it is. It is the projection of PCGrad (Yu et al., NeurIPS 2020), of the gradient of a
    source language against that of a target, as in Xu and Murray (Findings of NAACL 2022).

    Args:
        gradient: g, one entry per parameter.
        target: v, likewise.
        names: The name of each parameter.
        groups: What is projected by itself: the whole `"model"`, or each `"layer"`.

    Returns:
        The projected gradient, and ‖removed‖ / ‖g‖, 0-d.
    """
    result = list(gradient)
    removed: Vector = [None for _ in gradient]
    for members in grouped(names, groups).values():
        g, v = [gradient[member] for member in members], [target[member] for member in members]
        inner, length = dot(g, v), norm(v)

        # On the device, without a Python `if`: the host need not wait for the value.
        factor = ratio(inner.clamp_max(0).abs(), length * length)
        for member, part in zip(members, v, strict=True):
            entry = gradient[member]
            if entry is None or part is None:
                continue
            opposed = part * factor.to(part)
            removed[member], result[member] = opposed, entry + opposed

    return result, ratio(norm(removed), norm(gradient))


def grouped(names: Sequence[str], groups: Groups) -> dict[str, list[int]]:
    """The positions of the parameters of each group: one for the model, or one for each layer."""
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        group = ""
        if groups == "layer":
            group = layer_of(name)
        positions.setdefault(group, []).append(position)

    return positions

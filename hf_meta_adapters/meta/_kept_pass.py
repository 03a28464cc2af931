"""A training pass that can be taken again when θ and φ have moved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters.meta._replay import Replay
from hf_meta_adapters.meta.vectors import Vector


@dataclass(frozen=True)
class KeptPass:
    """What the mixed product needs of the training pass of a language in the step before.

    Args:
        losses: The micro-batches, each with the random numbers of its first evaluation.
        gradient: ∇φ of the loss, of this process, if the product needs it.
        point: The values of φ.
    """

    losses: Sequence[Replay]
    gradient: Vector
    point: list[Tensor]

"""A training pass that can be taken again when θ and φ have moved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta.vectors import Vector


@dataclass(frozen=True)
class KeptPass:
    """What the mixed product needs of the training pass of a language in the step before.

    Args:
        losses: The micro-batches of the product, each with the random numbers of its first
            evaluation.
        gradient: ∇φ of their sum, of this process, if the product needs it.
        point: The values of φ.
        scale: What a product of a sample is multiplied by.
        sample: The pass over a sample of the rows, where its product is to be compared with that of
            all rows.
    """

    losses: Sequence[Loss]
    gradient: Vector
    point: list[Tensor]
    scale: float = 1.0
    sample: KeptPass | None = None

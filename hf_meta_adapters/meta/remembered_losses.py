"""Losses that draw the same random numbers in several outer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hf_meta_adapters._typing import Language, Loss, MicroBatches
from hf_meta_adapters.meta._replay import Replay, each

__all__ = ["remembered"]


def remembered(
    losses: Mapping[Language, MicroBatches], device: torch.device
) -> dict[Language, Sequence[Loss]]:
    """The losses of languages, which draw in every outer step what they draw in the first one.

    Args:
        losses: The micro-batches of each language; a sample stays one, and takes passes of its own.
        device: The device on which the model draws its random numbers, besides the CPU.

    Returns:
        The losses.
    """

    def replay(loss: Loss) -> Loss:
        return Replay(loss, device)

    return {key: each(own, replay) for key, own in losses.items()}

"""Models whose parameters are divided among processes by FSDP2 (`torch.distributed.fsdp.fully_shard`)."""

from __future__ import annotations

import sys

from torch import nn


def reshard(model: nn.Module) -> None:
    """Give back whole parameters that an evaluation has left gathered, so that the model's parameters are its shards.

    Args:
        model: The model; one that is not sharded stays as it is.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # whoever shards a model has imported it
    if fsdp is None:
        return
    for part in model.modules():
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()

"""Telling that another process of the run was lost, from what the communication library raises."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import TrainingArguments

from hf_meta_adapters.errors import MetaAdapterError
from hf_meta_adapters.training._checkpoint_folders import last_checkpoint

_GLOO = re.compile(
    "connection (closed|reset|refused)|timed? ?out|broken pipe|aborted", re.IGNORECASE
)
"""What gloo says of a peer that is gone; it raises bare `RuntimeError`s, unlike NCCL.

`tests/faults/test_processes.py` loses real peers, and fails when torch changes these words.
"""


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or does not answer."""
    if isinstance(error, torch.distributed.DistNetworkError):
        return True
    return _GLOO.search(str(error)) is not None


def lost_process(error: RuntimeError, args: TrainingArguments, steps: int) -> MetaAdapterError:
    """The error to raise in the place of one that `is_lost_process`.

    Args:
        error: What the communication library raised.
        args: The arguments of the run.
        steps: The number of optimizer steps taken.

    Returns:
        The error.
    """
    return MetaAdapterError(
        f"All {args.world_size} processes must stay alive until the end. Found one lost after"
        f" {steps} steps: {' '.join(str(error).split())}"
        f" {last_checkpoint(Path(str(args.output_dir)))} Check the output of the lost process, and"
        " restart all of them with `resume_from_checkpoint=True`."
    )

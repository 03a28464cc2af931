"""Telling that another process of the run was lost, from what the communication library raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import Trainer

from hf_meta_adapters.errors import MetaAdapterError
from hf_meta_adapters.training._checkpoint_folders import last_checkpoint

_GLOO = re.compile(
    "connection (closed|reset|refused)|timed? ?out|broken pipe|aborted", re.IGNORECASE
)
"""What gloo says of a peer that is gone; it raises bare `RuntimeError`s, unlike NCCL.

`tests/faults/test_processes.py` loses real peers, and fails when torch changes these words.
"""
_SILENT = re.compile("timed? ?out", re.IGNORECASE)


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or does not answer."""
    if isinstance(error, torch.distributed.DistNetworkError):
        return True
    return _GLOO.search(str(error)) is not None


@contextmanager
def naming_lost_process(trainer: Trainer) -> Iterator[None]:
    """A context in which the loss of another process is an error that says so.

    Args:
        trainer: The Trainer. Its state is read when a process is lost.

    Raises:
        MetaAdapterError: In the place of what the communication library raises.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.args.world_size > 1 and is_lost_process(error):
            raise _lost_process(error, trainer) from error
        raise


def _lost_process(error: RuntimeError, trainer: Trainer) -> MetaAdapterError:
    args = trainer.args
    steps = f"after {trainer.state.global_step} steps"
    found = f"Found one lost {steps}:"
    if _SILENT.search(str(error)):
        found = (
            f"Found one, {steps}, that did not answer for {args.ddp_timeout} seconds"
            " (`ddp_timeout`): it was stopped, hangs, or does something else."
        )

    return MetaAdapterError(
        f"All {args.world_size} processes must stay alive until the end. {found}"
        f" {' '.join(str(error).split())}"
        f" {last_checkpoint(Path(str(args.output_dir)))} Check the output of the lost process, and"
        " restart all of them with `resume_from_checkpoint=True`."
    )

"""The end of a program that was started by a launcher."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

__all__ = ["closing_process_group"]


@contextmanager
def closing_process_group() -> Iterator[None]:
    """Close the process group at the end of the block, if one was opened in it.

    A process that exits with an open group may be aborted although all of its work is done: a
    thread of the group can still hold a tensor while Python shuts down
    (https://github.com/pytorch/pytorch/pull/179291).

    After an error the group stays open: the other processes may wait in a collective, and closing
    the group could wait for them.

    Example:
        >>> from hf_meta_adapters.cli.process_group import closing_process_group
        >>> with closing_process_group():
        ...     pass  # the whole program
    """
    yield

    if not (dist.is_available() and dist.is_initialized()):
        return

    # A wrapped model in a reference cycle would keep the group, and with it the thread, alive.
    gc.collect()
    dist.destroy_process_group()

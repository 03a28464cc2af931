"""SIGTERM as a request to write a checkpoint and stop (`enable_jit_checkpoint`)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from hf_meta_adapters.errors import ConfigurationError


class Termination:
    """Listens for SIGTERM during training, and makes all processes agree on whether it came.

    Args:
        args: The arguments of the run; transformers 4 has no `enable_jit_checkpoint`.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args
        self._is_enabled = bool(getattr(args, "enable_jit_checkpoint", False))
        self._came = False

    @contextmanager
    def replacing_callback(self) -> Iterator[None]:
        """A context in which transformers builds a Trainer without its own callback for SIGTERM.

        That callback also writes between the gradients of a step and its update, where the rows of
        the step, and φ of alternating updates, are ahead of θ.
        """
        if not self._is_enabled:
            yield
            return

        self._args.enable_jit_checkpoint = False
        try:
            yield
        finally:
            self._args.enable_jit_checkpoint = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A context in which SIGTERM is noted; afterwards, it does again what it did before.

        Raises:
            ConfigurationError: If the run is not in the main thread, or its checkpoints hold no
                run.
        """
        if not self._is_enabled:
            yield
            return

        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "`enable_jit_checkpoint` must be used in the main thread, the only one that is told"
                f" of signals. Found {threading.current_thread().name!r}. Call `train()` in the"
                " main thread, or leave `enable_jit_checkpoint` out."
            )

        if self._args.save_only_model:
            raise ConfigurationError(
                "`enable_jit_checkpoint` must write a checkpoint that the run can go on from. Found"
                " it together with `save_only_model=True`. Leave one of them out."
            )

        self._came = False
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            # `None` is a handler that was not set from Python and cannot be put back from there.
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def spare_workers(self, loader: DataLoader[Any]) -> None:
        """Let the workers of a loader outlive a SIGTERM that is sent to a whole group of processes.

        Schedulers of clusters do so. A worker that dies would end the run before its checkpoint.

        Args:
            loader: The loader, before its workers are started; that of Accelerate holds another.
        """
        if self._is_enabled:
            getattr(loader, "base_dataloader", loader).worker_init_fn = _heed_the_parent_alone

    def is_requested(self) -> bool:
        """Whether one of the processes was told to stop. All of them must call it together."""
        if self._is_enabled and self._args.world_size > 1:
            came = torch.tensor(float(self._came), device=self._args.device)
            torch.distributed.all_reduce(came)
            self._came = bool(came)

        return self._came

    def _note(self, *_: object) -> None:
        self._came = True


def _heed_the_parent_alone(_: int) -> None:
    """In a worker: be ended by the process that has started it, and by no other."""
    if not hasattr(signal, "sigwaitinfo"):
        return  # such a system does not say who has sent a signal

    # Not ignored altogether: that process would wait for its workers for ever when it ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

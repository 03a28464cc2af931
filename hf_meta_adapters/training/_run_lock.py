"""An advisory lock on the folder of a run, which ends with the process, however that ends."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import warnings
from pathlib import Path

LOCK = "_run.lock"  # transformers never uploads a name that begins with an underscore

_PAUSE = 0.1
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_held: set[int] = set()


class RunLock:
    """Holds `_run.lock` in a folder; the file is deleted when it is released.

    Args:
        folder: The folder.
        patience: Seconds to wait for another process to release it.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self._folder = folder
        self._patience = patience
        self._descriptor: int | None = None

    def acquire(self) -> str | None:
        """Take the lock. Where a file system has none, that is a warning.

        Returns:
            What is wrong, if another process has it.
        """
        if sys.platform == "win32":
            return None

        deadline = time.monotonic() + self._patience
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while not self._try():
                if time.monotonic() > deadline:
                    return self._in_use()
                time.sleep(_PAUSE)

        except OSError as error:
            warnings.warn(
                f"The folder of a run must be locked while it trains. Found {self._folder}, where"
                f" that is impossible: {error.strerror or error}. Make sure that no other run"
                " writes to it.",
                stacklevel=7,
            )
        return None

    def release(self) -> None:
        """Delete the file and release the lock, if this object holds it."""
        if self._descriptor is None:
            return

        # In this order: nobody must get the lock of a file that is about to disappear.
        (self._folder / LOCK).unlink(missing_ok=True)
        _close(self._descriptor)
        self._descriptor = None

    def _try(self) -> bool:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._folder / LOCK, flags, 0o644)
        _held.add(descriptor)

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have deleted the file between the two calls.
            is_current = _same_file(descriptor, self._folder / LOCK)
        except OSError as error:
            _close(descriptor)
            if error.errno in _BUSY:
                return False
            (self._folder / LOCK).unlink(missing_ok=True)
            raise

        if not is_current:
            _close(descriptor)
            return False

        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        return True

    def _in_use(self) -> str:
        try:
            holder = (self._folder / LOCK).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            holder = ""

        return (
            f"`output_dir` must be the folder of one run at a time. Found {self._folder}, in which"
            f" {holder or 'another process'} is training. Wait for its end, or pass another"
            " `output_dir`."
        )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _close(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _forget() -> None:
    """Close the files in a forked process: a worker that outlives its run must not hold locks."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""An advisory lock on a folder, so that those who read it and those who replace it take turns."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

if sys.platform != "win32":
    import fcntl

Answer = Literal["held", "busy", "unknown"]

_POLL = 0.02
"""Seconds between two attempts."""


@contextmanager
def locked(folder: Path, *, exclusive: bool, patience: float = 0.0) -> Iterator[Answer]:
    """A context in which a folder is locked, where its system can do that.

    The lock is on the folder itself, so that it leaves no file, and the system releases it when a
    process dies. It only keeps processes from disturbing one another: nothing relies on it.

    Args:
        folder: The folder.
        exclusive: Whether to lock everybody else out, or only those who want to be alone.
        patience: How many seconds to wait for others.

    Yields:
        "held"; "busy" if another process, or another user of this one, holds it; "unknown" where
        nothing can be locked, as on Windows and on some network file systems.
    """
    descriptor = _opened(folder)
    try:
        yield _take(descriptor, exclusive, patience)
    finally:
        # With the descriptor, the lock goes.
        if descriptor is not None:
            os.close(descriptor)


def _opened(folder: Path) -> int | None:
    if sys.platform == "win32":
        return None

    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def _take(descriptor: int | None, exclusive: bool, patience: float) -> Answer:
    if sys.platform == "win32" or descriptor is None:
        return "unknown"

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return "busy"
            time.sleep(_POLL)
        except OSError:
            return "unknown"
        else:
            return "held"

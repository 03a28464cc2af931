"""The peak of memory of a step, as benchmarks measure it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from hf_meta_adapters.errors import ConfigurationError

__all__ = [
    "MemoryPeaks",
    "keep_freed_memory",
    "peak_in_own_process",
    "peak_memory",
    "printed_in_own_process",
]

# From this number of bytes on, glibc's malloc gives memory back as soon as it is freed. Otherwise
# the peak would count what malloc keeps for later, which is not what a step needs.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144"}

# Parameters of `mallopt`, and the largest values that it takes.
_TRIM_THRESHOLD, _MOST_TRIM = -1, 2**31 - 1
_MMAP_THRESHOLD, _MOST_MMAP = -3, 2**25

PROCESS = Path("/proc/self")


def keep_freed_memory() -> bool:
    """Have malloc keep what this process frees for what it allocates next.

    Otherwise glibc gives large blocks back to the system, or not, depending on what ran before, and
    the time of a step on a CPU changes by a third with the steps beside it. For times, not for
    peaks.

    Returns:
        Whether the C library can do that: glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False

    library = ctypes.CDLL(None)
    is_kept = library.mallopt(_TRIM_THRESHOLD, _MOST_TRIM)
    return bool(library.mallopt(_MMAP_THRESHOLD, _MOST_MMAP) and is_kept)


def peak_memory(step: Callable[[], object]) -> float:
    """Return the peak of memory during a step, above the memory in use before it, in MB.

    On a CUDA device it is the memory that tensors occupy there, otherwise the resident memory of
    the process, which only Linux tells. Linux counts it in portions per core, so that this peak is
    inexact by up to some hundred kB for each core that the process has run on.

    Args:
        step: The step.

    Returns:
        The peak, in units of 10⁶ bytes: never below 0.

    Raises:
        ConfigurationError: Without a CUDA device, on another system than Linux.
    """
    if torch.cuda.is_available():
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - start) / 1e6

    if not PROCESS.is_dir():
        raise ConfigurationError(
            f"Peaks of memory need a CUDA device or Linux. Found {sys.platform!r}. Measure times"
            " only, or run this elsewhere."
        )

    # Writing 5 resets the peak, `VmHWM`, to the present `VmRSS`: see `man proc_pid_clear_refs`.
    (PROCESS / "clear_refs").write_text("5")
    start = _kilobytes("VmRSS")
    step()

    # The portions can leave the peak below the start, when a step takes hardly any memory.
    return max(0, _kilobytes("VmHWM") - start) / 1e3


def peak_in_own_process(*arguments: str) -> float:
    """Run the present command once more, with further arguments, and return the number it prints.

    In the process of a benchmark, memory that earlier steps left free would hide the peak of later
    ones.

    Args:
        *arguments: The further arguments, under which the command prints a peak as its last word.

    Returns:
        The number.
    """
    return float(printed_in_own_process(*arguments).split()[-1])


def printed_in_own_process(*arguments: str) -> str:
    """Run the present command once more, with further arguments, and return what it prints.

    Args:
        *arguments: The further arguments.

    Returns:
        Its standard output.
    """
    run = subprocess.run(  # noqa: S603 (the command that is running already)
        [sys.executable, *sys.argv, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **RETURN_FREED_MEMORY},
    )
    return run.stdout


class MemoryPeaks:
    """The peaks of this process's memory since a moment, with and without mapped files.

    Resident memory counts the pages of files that are mapped into memory, which the system takes
    back when something else needs the room. Anonymous memory is what the process itself holds. Of
    the former, Linux keeps the peak; the latter is looked at every few milliseconds, by a thread.

    Args:
        seconds: Between two looks.
    """

    def __init__(self, seconds: float = 0.005) -> None:
        self._seconds = seconds
        self._anonymous = 0
        self._over = threading.Event()

        (PROCESS / "clear_refs").write_text("5")
        self._look()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """End the measurement.

        Returns:
            `"resident"` and `"anonymous"`: the peaks, in MB.
        """
        self._over.set()
        self._thread.join()
        self._look()
        return {"resident": _kilobytes("VmHWM") / 1e3, "anonymous": self._anonymous / 1e3}

    def _look_on(self) -> None:
        while not self._over.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        self._anonymous = max(self._anonymous, _kilobytes("RssAnon"))


def _kilobytes(name: str) -> int:
    _, _, value = (PROCESS / "status").read_text().partition(f"{name}:")
    return int(value.split()[0])

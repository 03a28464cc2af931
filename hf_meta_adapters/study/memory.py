"""The peak of memory of a step, as benchmarks measure it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["peak_in_own_process", "peak_memory"]

# From this number of bytes on, glibc's malloc gives memory back as soon as it is freed. Otherwise
# the peak would count what malloc keeps for later, which is not what a step needs.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144"}

PROCESS = Path("/proc/self")


def peak_memory(step: Callable[[], object]) -> float:
    """Return the peak of memory during a step, above the memory in use before it, in MB.

    On a CUDA device it is the memory that tensors occupy there, otherwise the resident memory of
    the process, which only Linux tells.

    Args:
        step: The step.

    Returns:
        The peak, in units of 10⁶ bytes.

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
    return (_kilobytes("VmHWM") - start) / 1e3


def peak_in_own_process(*arguments: str) -> float:
    """Run the present command once more, with further arguments, and return the number it prints.

    In the process of a benchmark, memory that earlier steps left free would hide the peak of later
    ones.

    Args:
        *arguments: The further arguments, under which the command prints a peak as its last word.

    Returns:
        The number.
    """
    run = subprocess.run(  # noqa: S603 (the command that is running already)
        [sys.executable, *sys.argv, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **RETURN_FREED_MEMORY},
    )
    return float(run.stdout.split()[-1])


def _kilobytes(name: str) -> int:
    _, _, value = (PROCESS / "status").read_text().partition(f"{name}:")
    return int(value.split()[0])

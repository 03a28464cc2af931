"""Time and memory of steps on a device, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["StepClock"]


class StepClock:
    """Measures steps until no further one may begin.

    Args:
        device: `"cuda"` or `"cpu"`, where memory is not measured.
        end: When no step may begin any more, on the clock of `time.perf_counter`.

    Example:
        >>> clock = StepClock("cpu", end=time.perf_counter() + 60)
        >>> seconds, peak = clock.measure(lambda: sum(range(1000)))
        >>> seconds > 0, peak, clock.is_over()
        (True, None, False)
    """

    def __init__(self, device: str, end: float) -> None:
        self._on_gpu = device == "cuda"
        self._end = end

    def measure(self, step: Callable[[], object]) -> tuple[float, float | None]:
        """Take a step.

        Args:
            step: The step.

        Returns:
            Its seconds, and its peak of memory above the start, in units of 10⁶ bytes.
        """
        if not self._on_gpu:
            began = time.perf_counter()
            step()
            return time.perf_counter() - began, None

        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began

        return seconds, (torch.cuda.max_memory_allocated() - before) / 1e6

    def is_over(self) -> bool:
        """Whether no further step may begin."""
        return time.perf_counter() > self._end

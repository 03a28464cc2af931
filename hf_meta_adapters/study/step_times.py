"""The time of steps that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import torch
from tqdm import tqdm

__all__ = ["step_times"]


def step_times(
    steps: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    long: Collection[str] = (),
    title: str = "",
) -> dict[str, list[float]]:
    """Measure steps that take turns, so that what disturbs a machine disturbs all of them.

    On a CPU it is the time of the processor, and where there is a CUDA device, that of the clock.

    Args:
        steps: Name → step.
        repeats: How often each is measured, after a first round that warms up.
        long: The names of steps that take long, or leave much memory behind: they take their turns
            when all others are done, and are measured once.
        title: What the progress bar is called.

    Returns:
        Name → seconds.

    Example:
        >>> seconds = step_times({"one": lambda: None, "two": lambda: None}, 3)
        >>> {name: len(several) for name, several in seconds.items()}
        {'one': 3, 'two': 3}
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    short = [name for name in steps if name not in long]

    rounds = [(short, number > 0) for number in range(repeats + 1)]
    if long:
        rounds += [(list(long), False), (list(long), True)]

    for names, counts in tqdm(rounds, desc=title):
        for name in names:
            began = _now()
            steps[name]()
            if counts:
                seconds[name].append(_now() - began)

    return seconds


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()

    torch.cuda.synchronize()
    return time.perf_counter()

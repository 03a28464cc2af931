"""Which operations a step spends its time on, by the profiler of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch.profiler import ProfilerActivity, profile

from hf_meta_adapters.results.tables import format_number, markdown_table

__all__ = ["Operation", "StepProfile", "profile_step"]


@dataclass(frozen=True)
class Operation:
    """What one kind of operation costs.

    Attributes:
        name: The name, as the profiler gives it.
        milliseconds: CPU time of a step inside the operation itself, without those it calls.
        calls: Calls in a step.
        share: Its share of the CPU time of all operations.
    """

    name: str
    milliseconds: float
    calls: float
    share: float


@dataclass(frozen=True)
class StepProfile:
    """The operations of a step on which most CPU time is spent.

    Attributes:
        milliseconds: CPU time of all operations in a step. The profiler itself takes some of it.
        operations: The operations, most time first.
    """

    milliseconds: float
    operations: tuple[Operation, ...]

    def to_dict(self) -> dict[str, object]:
        """Return it as what JSON can hold."""
        return {
            "milliseconds": self.milliseconds,
            "operations": [asdict(operation) for operation in self.operations],
        }

    def to_markdown(self) -> str:
        """Return it as a table."""
        rows = [
            [
                f"`{one.name}`",
                format_number(one.milliseconds, 1),
                format_number(one.calls, 0),
                format_number(100 * one.share, 1),
            ]
            for one in self.operations
        ]
        return markdown_table(["operation", "ms", "calls", "%"], rows)


def profile_step(
    step: Callable[[], object], *, repeats: int = 3, warm_up: int = 2, most: int = 15
) -> StepProfile:
    """Profile a step, and average over its repetitions.

    Args:
        step: The step.
        repeats: How often it is profiled.
        warm_up: How often it is taken before.
        most: How many operations are reported.

    Returns:
        The profile.

    Example:
        >>> import torch
        >>> matrix = torch.ones(64, 64)
        >>> profile_step(lambda: matrix @ matrix, most=1).operations[0].name
        'aten::mm'
    """
    for _ in range(warm_up):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            step()

    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)  # in microseconds
    operations = [
        Operation(
            name=event.key,
            milliseconds=event.self_cpu_time_total / repeats / 1e3,
            calls=event.count / repeats,
            share=event.self_cpu_time_total / max(total, 1e-9),
        )
        for event in events[:most]
    ]
    return StepProfile(total / repeats / 1e3, tuple(operations))

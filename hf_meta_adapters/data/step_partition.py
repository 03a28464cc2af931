"""How the rows of an optimizer step are divided among processes and micro-steps."""

from __future__ import annotations

from dataclasses import dataclass

from hf_meta_adapters.data._whole_numbers import check_whole_number


@dataclass(frozen=True)
class StepPartition:
    """The part of each optimizer step that one process reads, micro-step by micro-step.

    Args:
        rank: r, the number of this process.
        world_size: W, the number of processes: process r reads every W-th row of the global batch,
            starting with row r.
        accumulation_steps: Micro-steps of one optimizer step, all of the same languages.

    Raises:
        ConfigurationError: If a number is out of range.

    Example:
        >>> partition = StepPartition(rank=1, world_size=2, accumulation_steps=2)
        >>> [list(partition.positions(0, micro_step, rows=3)) for micro_step in (0, 1)]
        [[1, 3, 5], [7, 9, 11]]
    """

    rank: int = 0
    world_size: int = 1
    accumulation_steps: int = 1

    def __post_init__(self) -> None:
        check_whole_number("accumulation_steps", self.accumulation_steps)
        check_whole_number("world_size", self.world_size)
        check_whole_number("rank", self.rank, lowest=0, highest=self.world_size - 1)

    @property
    def parts(self) -> int:
        """Into how many parts an optimizer step is divided."""
        return self.world_size * self.accumulation_steps

    def positions(self, visit: int, micro_step: int, rows: int) -> range:
        """Return where in the stream of a language this process reads in one micro-step.

        Args:
            visit: How many earlier optimizer steps held the language.
            micro_step: The number of the micro-step in its optimizer step.
            rows: Rows of the language per process and micro-step.

        Returns:
            The positions. Those of all processes and micro-steps of an optimizer step are one
            block of the stream, so a step reads the same rows however it is divided.
        """
        global_batch = rows * self.world_size
        start = (visit * self.accumulation_steps + micro_step) * global_batch
        return range(start + self.rank, start + global_batch, self.world_size)

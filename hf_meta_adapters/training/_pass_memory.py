"""How many languages fit into a forward pass, from the memory that one of them takes."""

from __future__ import annotations

from collections.abc import Mapping

_MARGIN = 0.8
"""The part of the memory that is planned for. The rest is for longer rows than were seen, and for
pieces of free memory that are too small.
"""


class PassMemory:
    """Learns what a pass of one language takes, and says how many fit.

    A step with one language in a pass takes b bytes before it begins (weights, states of the
    optimizer) and p at its peak. Of k languages it takes b + k (p − b) at most: activations grow
    with k, gradients and copies of weights do not. The most that may be taken is `_MARGIN` of what
    is free or held by this process already.

    It is foreseen, and not tried until memory runs out, as `find_executable_batch_size` of
    Accelerate does: one process alone would fail in the middle of a step, where θ is elsewhere.

    Example:
        >>> memory = PassMemory()
        >>> memory.observe(before=2e9, peak=3e9)
        >>> memory.fitting(capacity=10e9)
        6
    """

    def __init__(self) -> None:
        self.count = 0
        """How many steps were observed."""
        self._before = 0.0
        self._pass = 0.0

    def observe(self, before: float, peak: float) -> None:
        """Learn from a step with one language in a pass; the largest of all steps counts.

        Args:
            before: The bytes that were taken when it began.
            peak: The most that were taken in it.
        """
        self.count += 1
        self._before = max(self._before, before)
        self._pass = max(self._pass, peak - before)

    def fitting(self, capacity: float) -> int:
        """How many languages fit, at least 1.

        Args:
            capacity: The bytes that this process has or could have.

        Returns:
            The number.
        """
        # a step that takes nothing says nothing
        if self._pass <= 0:
            return 1
        return max(int((_MARGIN * capacity - self._before) // self._pass), 1)

    def state(self) -> dict[str, float]:
        """What was learned, JSON."""
        return {"count": self.count, "before": self._before, "pass": self._pass}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self.count = int(state["count"])
        self._before, self._pass = float(state["before"]), float(state["pass"])

"""Rows in an order in which those of a step have similar lengths, so that little is padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_STRETCH = 50
"""The most steps whose rows are sorted together; fewer keep more chance."""

_STRETCHES = 4
"""Into how many stretches a pass is divided at least, if it has the rows for them."""


@dataclass(frozen=True)
class LengthGroups:
    """Groups the rows of a pass by length.

    The rows of up to 50 steps are drawn at random and sorted by length; each step takes a run of
    them, and the steps are shuffled. Every row is in a pass exactly once, as without groups.

    Args:
        lengths: The length of each row, (n,).
        size: Rows of a step.

    Example:
        >>> groups = LengthGroups(np.array(4 * [9, 1, 8, 2]), size=2)
        >>> order = groups.order(np.arange(16), 0, torch.Generator().manual_seed(0))
        >>> groups.lengths[order].reshape(-1, 2).tolist()
        [[9, 8], [2, 1], [2, 1], [9, 8], [2, 1], [2, 1], [9, 8], [9, 8]]
    """

    lengths: NDArray[np.int64]
    size: int

    def order(
        self, drawn: NDArray[np.int64], start: int, generator: torch.Generator
    ) -> NDArray[np.int64]:
        """Put the rows of a pass into groups.

        Args:
            drawn: A random permutation of all rows, (n,).
            start: Where the pass begins in the stream of rows. Its first rows complete the step in
                which the pass before has ended, and are taken as they were drawn.
            generator: Shuffles the steps.

        Returns:
            The rows in their new order, (n,). In the first pass, the step with the longest row
            comes first: memory that is too short is so from the beginning.
        """
        if start == 0:
            longest = int(self.lengths[drawn].argmax())
            drawn = np.roll(drawn, -longest)  # to the front, and so into the first step

        completing = min(-start % self.size, len(drawn))
        rest = drawn[completing:]
        steps = len(rest) // self.size

        # Several stretches, or else the same rows would come together in every pass.
        stretch = self.size * max(1, min(steps // _STRETCHES, _STRETCH))
        runs = [self._longest_first(rest[i : i + stretch]) for i in range(0, len(rest), stretch)]
        grouped = np.concatenate([*runs, rest[:0]])

        whole = grouped[: steps * self.size].reshape(steps, self.size)
        turns = torch.randperm(steps, generator=generator).numpy()
        if start == 0 and steps > 0:
            turns = np.roll(turns, -int(turns.argmin()))

        last = grouped[steps * self.size :]
        return np.concatenate([drawn[:completing], whole[turns].reshape(-1), last])

    def _longest_first(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        # Stable: rows of one length stay in the order in which they were drawn.
        return rows[np.argsort(-self.lengths[rows], kind="stable")]

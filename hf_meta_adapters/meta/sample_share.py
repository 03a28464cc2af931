"""How large a sample of the rows has to be, from the angles that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["SHARES", "TARGET", "SampleShare"]

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
"""The shares to choose from, in falling order."""

TARGET = 0.95
"""The least cosine between the meta-gradient with a sample and that with all rows."""

_PLANNED = 0.97
"""The least cosine that is planned for: tan² of the angle is then 0.06. A step with 1.7 times the
noise of the mean is still within the target.
"""

_LEAST = 0.5
"""Cosines below count as this one: one bad measurement must not outweigh all others."""

_MEMORY = 5
"""How many measurements the running mean remembers: enough to average the noise of one, few enough
to follow a gradient that changes in training.
"""


class SampleShare:
    """Chooses the least share of the rows whose meta-gradient is near enough that of all rows.

    A sample of n of N rows adds an error e to the gradient f, of the variance
    E‖e‖² = c ‖f‖² (N/n − 1), since the variance of the mean of a sample without replacement is
    proportional to 1/n − 1/N. In many dimensions e is at right angles to f, so that

        tan²(f, f + e) ≈ c (N/n − 1)

    and one measured angle gives c, and so the angles at all other shares. The share falls by one
    step of `SHARES` at each measurement, at most, and rises as far as it has to.

    Example:
        >>> choice = SampleShare()
        >>> for _ in range(2):
        ...     choice.observe(cosine=0.99, odds=1.0)
        >>> choice.share, round(choice.predicted(0.25), 3)
        (0.5, 0.971)
    """

    def __init__(self) -> None:
        self.share = SHARES[0]
        """The share in use; all rows as long as nothing is known."""
        self._noise = 0.0
        self._count = 0
        # The position of the least share that is known to be all rows: 3/4 of two rows are both.
        self._whole = 0

    @property
    def candidate(self) -> float:
        """The share to measure: that in use, or of all rows, which say nothing, the next one."""
        position = max(SHARES.index(self.share), self._whole + 1)
        return SHARES[min(position, len(SHARES) - 1)]

    def predicted(self, share: float) -> float:
        """The cosine to be expected.

        Args:
            share: n/N.

        Returns:
            The cosine.
        """
        return _cosine(self._noise * (1 / share - 1))

    def observe(self, cosine: float, odds: float) -> None:
        """Learn from a measurement, and choose anew.

        Args:
            cosine: That between the gradient with the sample of `candidate` and that of all rows.
                A value that is not finite says nothing.
            odds: N/n − 1 of the sample. Whole rows may make it smaller than the share says; at 0,
                where the sample is all rows, the next measurement is of a smaller one.
        """
        # written so that NaN is no measurement
        if not (-1.1 < cosine < 1.1 and odds >= 0):
            return
        if odds == 0:
            self._whole = SHARES.index(self.candidate)
            return

        self._count = min(self._count + 1, _MEMORY)
        self._noise += (_squared_tangent(cosine) / odds - self._noise) / self._count
        self._choose(fell_short=cosine < TARGET)

    def state(self) -> dict[str, float]:
        """Everything that the next measurements depend on, JSON."""
        numbers = {"count": self._count, "whole": self._whole}
        return {"share": self.share, "noise": self._noise, **numbers}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from a state.

        Args:
            state: What `state` returned.

        Raises:
            ValueError: If it is none.
            KeyError: Likewise.
        """
        share, noise = float(state["share"]), float(state["noise"])
        count, whole = int(state["count"]), int(state["whole"])
        fits = share in SHARES and 0 <= noise < math.inf
        if not fits or not 0 <= count <= _MEMORY or not 0 <= whole < len(SHARES):
            raise ValueError(f"a share of {share} from {count} measurements of {noise}")
        self.share, self._noise, self._count, self._whole = share, noise, count, whole

    def _choose(self, *, fell_short: bool) -> None:
        wide_enough = [share for share in SHARES if self.predicted(share) >= _PLANNED]
        now, wanted = SHARES.index(self.share), SHARES.index(min(wide_enough))

        # A single measurement may raise the share, but never lower it far.
        if fell_short:
            wanted = min(wanted, max(now - 1, 0))
        position = min(wanted, max(now, self._whole) + 1)
        self.share = SHARES[position if position > self._whole else 0]


def _squared_tangent(cosine: float) -> float:
    bounded = min(max(cosine, _LEAST), 1.0)
    return 1 / bounded**2 - 1


def _cosine(squared_tangent: float) -> float:
    return float((1 + squared_tangent) ** -0.5)

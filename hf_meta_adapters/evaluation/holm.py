"""Holm's procedure: p-values of several comparisons that may be believed together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hf_meta_adapters.evaluation.method_comparison import PairedDifference

__all__ = ["adjust_by_holm"]


def adjust_by_holm(differences: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """Adjust p-values: p̃_(k) = max over j ≤ k of min(1, (m − j + 1) p_(j)) (Holm 1979).

    Args:
        differences: The m comparisons. A p-value of NaN stays NaN, and does not count.

    Returns:
        The same comparisons in their order, with the adjusted p-values.
    """
    # By hand: scipy has the procedures that bound the false discovery rate, but not Holm's.
    tested = [place for place, one in enumerate(differences) if not math.isnan(one.p_value)]
    tested.sort(key=lambda place: differences[place].p_value)

    adjusted = dict.fromkeys(range(len(differences)), math.nan)
    largest = 0.0
    for rank, place in enumerate(tested):
        p_value = (len(tested) - rank) * differences[place].p_value
        largest = max(largest, min(1.0, p_value))
        adjusted[place] = largest

    return tuple(replace(one, p_value=adjusted[place]) for place, one in enumerate(differences))

"""The entries of a training log for a measured gradient conflict."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

from hf_meta_adapters.diagnostics import ConflictMatrix

_MOST_PAIRS = 28  # of 8 languages; of more, only mean and lowest are logged


def log_entries(conflict: ConflictMatrix) -> dict[str, float | str]:
    """The entries of the log for a measurement.

    Args:
        conflict: The measurement.

    Returns:
        name → value; cosines that could not be measured are absent.
    """
    cosines = _pairs(conflict)
    cosines["gradient_cosine_between_languages"] = conflict.between_languages
    cosines["gradient_cosine_within_languages"] = conflict.within_languages

    # Over all pairs, and over all pairs in all layers: the second is lower.
    worst = conflict.most_conflicting()
    worst_layer = conflict.most_conflicting(per_layer=True)
    cosines["gradient_cosine_lowest"] = worst.cosine
    cosines["gradient_cosine_lowest_layer"] = worst_layer.cosine

    # A pair without independent batches has no cosine; reporters plot no NaN.
    logs: dict[str, float | str] = {}
    for name, cosine in cosines.items():
        if not math.isnan(cosine):
            logs[name] = cosine

    logs["most_conflicting"] = "–".join(worst.languages)
    logs["most_conflicting_layer"] = f"{'–'.join(worst_layer.languages)} in {worst_layer.layer}"
    return logs


def _pairs(conflict: ConflictMatrix) -> dict[str, float]:
    """The cosine of each pair of languages, and within each if there are batches to compare."""
    languages = conflict.languages
    if len(languages) * (len(languages) - 1) // 2 > _MOST_PAIRS:
        return {}

    cosines = {}
    for i, j in combinations_with_replacement(range(len(languages)), 2):
        if i != j or conflict.baseline is not None:
            name = f"gradient_cosine_{languages[i]}_{languages[j]}"
            cosines[name] = float(conflict.matrix[i, j])

    return cosines

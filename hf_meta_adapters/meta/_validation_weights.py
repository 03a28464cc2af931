"""The weights w_ij: which validation losses count for which language, all of them or an unbiased draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._options import MetaOptions


def validation_weights(
    languages: Sequence[Language], options: MetaOptions, seed: int
) -> dict[Language, dict[Language, float]]:
    """w_ij of Σ_j w_ij L_j^val for each language i; a language that does not count is left out.

    With `meta_languages="all"` w_ij = 1/L, with `"others"` w_ij = 1/(L−1) for j ≠ i. Of the other
    languages, `meta_languages_per_step` draws some without replacement, and their weights are
    raised by the inverse of the probability of being drawn, so that the mean over draws is the full
    sum. Language i itself, on which the direct part depends, is always there if it counts.

    Args:
        languages: The languages with validation losses.
        options: The options of the outer step.
        seed: Of the draw.

    Returns:
        language i → language j → w_ij.
    """
    whole = options.meta_languages == "all"
    count = len(languages) - (0 if whole else 1)
    wanted = options.meta_languages_per_step
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for key in languages:
        others = [other for other in languages if other != key]
        taken = len(others) if wanted is None else min(wanted - whole, len(others))
        drawn = {
            others[place] for place in torch.randperm(len(others), generator=draw)[:taken].tolist()
        }
        each = {key: 1.0} if whole else {}
        each |= dict.fromkeys(drawn, len(others) / max(taken, 1))
        weights[key] = {other: each[other] / count for other in languages if other in each}
    return weights

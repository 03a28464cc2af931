"""The weights w_ij: which validation losses count for which language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.options import MetaOptions


def validation_weights(
    languages: Sequence[Language], meta: Sequence[Language], options: MetaOptions, seed: int
) -> dict[Language, dict[Language, float]]:
    """w_ij of Σ_j w_ij L_j^val for each language i; a language that does not count is left out.

    With `meta_languages="all"` w_ij = 1/L, with `"others"` w_ij = 1/(L−1) for j ≠ i, and with named
    languages their own weights, which sum to 1. Of the other languages, `meta_languages_per_step`
    draws some without replacement, and their weights are raised by the inverse of the probability
    of being drawn, so that the mean over draws is the full sum. Language i itself, on which the
    direct part depends, is always included if it counts.

    Args:
        languages: The languages of the step. One without a validation loss counts for no language,
            but the others count for it: θ moves for the training loss of all.
        meta: The languages that have a validation loss.
        options: The options of the outer step.
        seed: The seed of the draw.

    Returns:
        language i → language j → w_ij.
    """
    random = torch.Generator().manual_seed(seed)
    weights: dict[Language, dict[Language, float]] = {}

    # Those without a validation loss come last: the draws of the others do not depend on them.
    for key in dict.fromkeys([*meta, *languages]):
        full = _full(key, meta, options)
        others = [other for other in full if other != key]
        draws = len(others)
        if options.meta_languages_per_step is not None:
            draws = min(options.meta_languages_per_step - (key in full), len(others))

        order = torch.randperm(len(others), generator=random).tolist()
        drawn = {others[position] for position in order[:draws]}

        # In the order of the languages, which is the same on every process.
        weights[key] = {}
        for other, weight in full.items():
            if other == key:
                weights[key][other] = weight
            elif other in drawn:
                weights[key][other] = weight * len(others) / max(draws, 1)

    return weights


def _full(
    key: Language, meta: Sequence[Language], options: MetaOptions
) -> Mapping[Language, float]:
    """The weights for a language without any draw, in the order of the validation losses."""
    named = options.named_meta_languages()
    if named is not None:
        present = {other: named[other] for other in meta if other in named}
        total = sum(present.values())
        return {other: weight / total for other, weight in present.items()}

    counted = [other for other in meta if options.meta_languages == "all" or other != key]
    return dict.fromkeys(counted, 1 / max(len(counted), 1))

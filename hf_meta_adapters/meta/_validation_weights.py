"""The weights w_ij: which validation losses count for which language."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.options import MetaOptions


def validation_weights(
    languages: Sequence[Language],
    options: MetaOptions,
    seed: int,
    without_loss: Sequence[Language] = (),
) -> dict[Language, dict[Language, float]]:
    """w_ij of Σ_j w_ij L_j^val for each language i; a language that does not count is left out.

    With `meta_languages="all"` w_ij = 1/L, with `"others"` w_ij = 1/(L−1) for j ≠ i. Of the other
    languages, `meta_languages_per_step` draws some without replacement, and their weights are
    raised by the inverse of the probability of being drawn, so that the mean over draws is the full
    sum. Language i itself, on which the direct part depends, is always included if it counts.

    Args:
        languages: The languages with validation losses.
        options: The options of the outer step.
        seed: The seed of the draw.
        without_loss: Languages without a validation loss. They count for no language, but the
            others count for them: θ moves for the training loss of all.

    Returns:
        language i → language j → w_ij.
    """
    random = torch.Generator().manual_seed(seed)

    weights = {}
    # Those without a loss come last: the draws of the others do not depend on them.
    for key in [*languages, *without_loss]:
        others = [other for other in languages if other != key]
        counts_itself = options.meta_languages == "all" and key in languages
        count = len(others) + counts_itself

        draws = len(others)
        if options.meta_languages_per_step is not None:
            draws = min(options.meta_languages_per_step - counts_itself, len(others))

        order = torch.randperm(len(others), generator=random).tolist()
        drawn = {others[position] for position in order[:draws]}

        # In the order of the languages, which is the same on every process.
        relative = {}
        for other in languages:
            if other == key and counts_itself:
                relative[other] = 1.0
            elif other in drawn:
                relative[other] = len(others) / max(draws, 1)
        weights[key] = {other: weight / count for other, weight in relative.items()}

    return weights

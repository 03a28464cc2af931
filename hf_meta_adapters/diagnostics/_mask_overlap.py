"""Do languages need different weights? Overlap of their masks, against that of two seeds of one language."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hf_meta_adapters.anatomy.layers import layer_of
from hf_meta_adapters.diagnostics._gram import gram
from hf_meta_adapters.diagnostics._language_masks import LanguageMasks
from hf_meta_adapters.diagnostics._overlap_matrix import OverlapMatrix
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["mask_overlap"]

Measure = Literal["jaccard", "agreement"]


def mask_overlap(masks: LanguageMasks, *, measure: Measure = "jaccard") -> OverlapMatrix:
    """Return the overlap of masks, `|A ∩ B| / |A ∪ B|` of the kept gates, between languages and between seeds.

    Entry (i, j) is the mean over all pairs of *different* seeds of a mask of language i and one of
    language j, on the diagonal too: that is the overlap which remains if nothing but the seed
    differs, and language-specific weights are what the other entries fall short of it. Masks of one
    seed share their random numbers, so they would overlap for no good reason. With one seed there
    is no choice, the diagonal is 1 by definition, and no baseline is given.

    Args:
        masks: The masks.
        measure: `"jaccard"`, or `"agreement"` for the share of gates on which both masks say the
            same.

    Returns:
        The overlaps.

    Raises:
        ConfigurationError: If the measure is unknown.

    Example:
        >>> kept = {"en": [True, True, False, False], "sw": [False, True, True, False]}
        >>> found = {key: {seed: {"weight": torch.tensor(mask)} for seed in (0, 1)} for key, mask in kept.items()}
        >>> overlap = mask_overlap(LanguageMasks(("en", "sw"), (0, 1), "weight", {"weight": (4,)}, found, {}))
        >>> round(overlap.between_languages, 3), overlap.between_seeds
        (0.333, 1.0)
    """
    if measure not in get_args(Measure):
        raise ConfigurationError(
            f"`measure` must be one of {list(get_args(Measure))}. Found {measure!r}. Write for"
            ' example "jaccard".'
        )
    rows = [masks.mask(language, seed) for language in masks.languages for seed in masks.seeds]
    products, gates = {}, {}
    for layer in masks.layers:
        names = [name for name in masks.shapes if layer_of(name) == layer]
        products[layer] = torch.stack(
            [gram([row[name].flatten() for row in rows]) for name in names]
        ).sum(0)
        gates[layer] = sum(rows[0][name].numel() for name in names)
    total, count = torch.stack(list(products.values())).sum(0), sum(gates.values())
    seeds = len(masks.seeds)
    matrix = _mean_over_seeds(_overlap(total, count, measure), seeds)
    density = float(total.diagonal().mean()) / count
    return OverlapMatrix(
        languages=masks.languages,
        matrix=matrix,
        baseline=matrix.diagonal() if seeds > 1 else None,
        per_layer={
            k: _mean_over_seeds(_overlap(products[k], gates[k], measure), seeds) for k in products
        },
        chance=density / (2 - density) if measure == "jaccard" else density**2 + (1 - density) ** 2,
        measure=measure,
        seeds=masks.seeds,
    )


def _overlap(products: Tensor, gates: int, measure: Measure) -> Tensor:
    """Return the overlap of all pairs from the sizes of their intersections; two empty masks are alike."""
    sizes = products.diagonal()
    both = sizes.unsqueeze(0) + sizes.unsqueeze(1)
    if measure == "agreement":
        return 1 - (both - 2 * products) / gates
    return torch.where(both == 0, 1.0, products / (both - products))


def _mean_over_seeds(overlap: Tensor, seeds: int) -> Tensor:
    """Return the mean over pairs of different seeds, shape (L, L), of overlaps of shape (L S, L S)."""
    pairs = overlap.reshape(len(overlap) // seeds, seeds, -1, seeds).transpose(1, 2)
    if seeds == 1:
        return pairs.reshape(pairs.shape[:2])
    different = ~torch.eye(seeds, dtype=torch.bool)
    return pairs[..., different].mean(-1)

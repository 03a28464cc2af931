"""Do languages need different weights? Overlap of their masks, next to that of two seeds."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from hf_meta_adapters.anatomy.layers import layer_of
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.diagnostics.overlap_matrix import OverlapMatrix
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.products.gram import gram

__all__ = ["mask_overlap"]

Measure: TypeAlias = Literal["jaccard", "agreement"]


def mask_overlap(masks: LanguageMasks, *, measure: Measure = "jaccard") -> OverlapMatrix:
    """Return the overlap `|A ∩ B| / |A ∪ B|` of the kept gates, between languages and seeds.

    Entry (i, j) is the mean over all pairs of *different* seeds of a mask of language i and one of
    language j. On the diagonal, that is the overlap that remains if nothing but the seed differs;
    other entries fall short of it as far as weights are language-specific. Masks of the same seed
    share their random numbers, so they would overlap for no good reason. With a single seed there
    is no other pair, the diagonal is 1 by definition, and there is no baseline.

    Args:
        masks: The masks.
        measure: `"jaccard"`, or `"agreement"` for the share of gates that both masks keep or both
            prune.

    Returns:
        The overlaps.

    Raises:
        ConfigurationError: If the measure is unknown.

    Example:
        >>> kept = {"en": [True, True, False, False], "sw": [False, True, True, False]}
        >>> by_seed = {
        ...     language: {seed: {"weight": torch.tensor(mask)} for seed in (0, 1)}
        ...     for language, mask in kept.items()
        ... }
        >>> masks = LanguageMasks(("en", "sw"), (0, 1), "weight", {"weight": (4,)}, by_seed, {})
        >>> overlap = mask_overlap(masks)
        >>> round(overlap.between_languages, 3), overlap.between_seeds
        (0.333, 1.0)
    """
    if measure not in get_args(Measure):
        raise ConfigurationError(
            f"`measure` must be one of {list(get_args(Measure))}. Found {measure!r}. Use for"
            ' example "jaccard".'
        )

    products = _intersections(masks)
    total = torch.stack(list(products.values())).sum(0)
    counts = _gates_per_layer(masks)
    count = sum(counts.values())

    seeds = len(masks.seeds)
    per_layer: dict[str, Tensor] = {}
    for layer, product in products.items():
        per_layer[layer] = _mean_over_seeds(_overlap(product, counts[layer], measure), seeds)

    matrix = _mean_over_seeds(_overlap(total, count, measure), seeds)
    baseline = None
    if seeds > 1:
        baseline = matrix.diagonal()

    # The diagonal holds the number of gates that each mask keeps.
    density = float(total.diagonal().mean()) / count
    return OverlapMatrix(
        languages=masks.languages,
        matrix=matrix,
        baseline=baseline,
        per_layer=per_layer,
        chance=_chance(density, measure),
        measure=measure,
        seeds=masks.seeds,
    )


def _intersections(masks: LanguageMasks) -> dict[str, Tensor]:
    """Return layer → numbers of gates that both of two masks keep, shape (L S, L S)."""
    rows: list[dict[str, Tensor]] = []
    for language in masks.languages:
        rows.extend(masks.mask(language, seed) for seed in masks.seeds)

    # The inner product of two masks counts the gates that both keep.
    products: dict[str, list[Tensor]] = {}
    for name in masks.shapes:
        product = gram([row[name].flatten() for row in rows])
        products.setdefault(layer_of(name), []).append(product)
    return {layer: torch.stack(of_layer).sum(0) for layer, of_layer in products.items()}


def _gates_per_layer(masks: LanguageMasks) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, mask in masks.mask(masks.languages[0], masks.seeds[0]).items():
        layer = layer_of(name)
        counts[layer] = counts.get(layer, 0) + mask.numel()

    return counts


def _overlap(products: Tensor, gates: int, measure: Measure) -> Tensor:
    """Return the overlap of all pairs of masks from the sizes of their intersections."""
    sizes = products.diagonal()
    both = sizes.unsqueeze(0) + sizes.unsqueeze(1)
    if measure == "agreement":
        return 1 - (both - 2 * products) / gates

    # Two empty masks are alike, where 0/0 would be NaN.
    return torch.where(both == 0, 1.0, products / (both - products))


def _chance(density: float, measure: Measure) -> float:
    """Return the overlap of independent masks that keep each gate with the same probability p."""
    if measure == "agreement":
        return density**2 + (1 - density) ** 2

    return density / (2 - density)  # p² / (2 p − p²)


def _mean_over_seeds(overlap: Tensor, seeds: int) -> Tensor:
    """Return the mean over pairs of different seeds, shape (L, L), of overlaps, (L S, L S)."""
    # Rows and columns go language by language and, within a language, seed by seed.
    pairs = overlap.reshape(len(overlap) // seeds, seeds, -1, seeds).transpose(1, 2)
    if seeds == 1:
        return pairs.reshape(pairs.shape[:2])

    different = ~torch.eye(seeds, dtype=torch.bool)
    return pairs[..., different].mean(-1)

"""Where to put language-specific capacity, and which languages can share it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import layer_index
from hf_meta_adapters.diagnostics._clusters import average_linkage
from hf_meta_adapters.diagnostics._language_matrix import language_pairs
from hf_meta_adapters.diagnostics._mask_overlap import mask_overlap
from hf_meta_adapters.diagnostics.capacity_plan import CapacityPlan, LayerNeed
from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["plan_language_capacity"]


def plan_language_capacity(
    conflict: ConflictMatrix, masks: LanguageMasks | None, budget: int, *, share_above: float = 0.5
) -> CapacityPlan:
    """Return the `budget` layers in which languages differ most, and groups of similar languages.

    A layer is ranked by how far languages fall short of agreeing with one another as well as with
    themselves:

        conflict      mean over pairs of √(c_ii c_jj) − c_ij
        specificity   mean over pairs of (o_ii + o_jj)/2 − o_ij

    where c are the cosines of the layer (√… = 1 without a baseline) and o the overlaps of its masks
    (which need two seeds). With both, a layer is ranked by the mean of its two ranks, which need no
    common scale. Languages are grouped by average linkage on the disattenuated cosine of the whole
    model. This is advice from a heuristic: only a training run proves that capacity helps in a
    layer with conflict.

    Args:
        conflict: Result of `gradient_conflict(..., per_layer=True)`.
        masks: Result of `learn_language_masks` on the same model and languages, or `None`.
        budget: Number of layers that may get language-specific capacity.
        share_above: Languages may share an adapter if the mean cosine between them is at least
            this.

    Returns:
        The plan.

    Raises:
        ConfigurationError: If there are no layers, the budget is out of range, or the masks are of
            other languages.

    Example:
        >>> from hf_meta_adapters.diagnostics import gradient_conflict
        >>> def loss_function(model, batch):
        ...     return (model[1].weight * batch["x"]).sum() + model[0].weight.sum()
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(2, 1))
        >>> directions = {"en": [1.0, 0.0], "fr": [1.0, 0.1], "sw": [-1.0, 0.0]}
        >>> batches = {key: {"x": torch.tensor(direction)} for key, direction in directions.items()}
        >>> conflict = gradient_conflict(
        ...     model, batches, per_layer=True, loss_function=loss_function
        ... )
        >>> plan = plan_language_capacity(conflict, None, budget=1, share_above=0.9)
        >>> plan.target_layers, plan.groups
        (('1',), (('en', 'fr'), ('sw',)))
    """
    # Only a numbered layer can be named in the configuration of an adapter.
    layers = [layer for layer in conflict.per_layer if layer_index(layer) is not None]
    _check(conflict, masks, layers, budget)

    conflicts = _conflicts(conflict, layers)
    specificities = _specificities(masks)
    needs = tuple(
        LayerNeed(layer, conflicts[layer], specificities.get(layer), rank)
        for layer, rank in _ranked(conflicts, specificities)
    )
    neediest = {need.layer for need in needs[:budget]}

    # Noise lowers the cosines of small samples; without it, one threshold holds for all of them.
    similarity = conflict.matrix
    if conflict.disattenuated is not None:
        similarity = conflict.disattenuated
    groups = [_languages(conflict, indices) for indices in average_linkage(similarity, share_above)]

    return CapacityPlan(
        target_layers=tuple(layer for layer in layers if layer in neediest),
        groups=tuple(groups),
        layers=needs,
        languages=conflict.languages,
        similarity=similarity,
        share_above=share_above,
    )


def _languages(conflict: ConflictMatrix, indices: list[int]) -> tuple[Language, ...]:
    return tuple(conflict.languages[index] for index in indices)


def _conflicts(conflict: ConflictMatrix, layers: list[str]) -> dict[str, float]:
    """Return layer → mean over pairs of √(c_ii c_jj) − c_ij."""
    conflicts: dict[str, float] = {}
    for layer in layers:
        cosines = conflict.per_layer[layer]
        within = torch.ones(len(cosines), dtype=cosines.dtype)
        if conflict.baseline is not None:
            # A baseline below 0 is noise around 0.
            within = cosines.diagonal().clamp(min=0).sqrt()

        expected = within.unsqueeze(0) * within.unsqueeze(1)
        conflicts[layer] = _mean_of_pairs(expected - cosines)

    return conflicts


def _specificities(masks: LanguageMasks | None) -> dict[str, float]:
    """Return layer → mean over pairs of (o_ii + o_jj)/2 − o_ij; nothing without two seeds."""
    if masks is None or len(masks.seeds) < 2:
        return {}

    specificities: dict[str, float] = {}
    for layer, overlaps in mask_overlap(masks).per_layer.items():
        within = overlaps.diagonal()
        expected = (within.unsqueeze(0) + within.unsqueeze(1)) / 2
        specificities[layer] = _mean_of_pairs(expected - overlaps)

    return specificities


def _mean_of_pairs(matrix: Tensor) -> float:
    return float(language_pairs(matrix).nanmean())


def _ranked(
    conflicts: Mapping[str, float], specificities: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Return each layer with its mean rank, counted from 1, the neediest first."""
    by_conflict = _ranks(conflicts)
    ranks = {layer: float(rank) for layer, rank in by_conflict.items()}
    if specificities:
        missing = math.nan
        by_specificity = _ranks({k: specificities.get(k, missing) for k in conflicts})
        ranks = {layer: (rank + by_specificity[layer]) / 2 for layer, rank in by_conflict.items()}

    # Ties are broken by conflict, which every plan has.
    return sorted(ranks.items(), key=lambda item: (item[1], by_conflict[item[0]]))


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Return layer → place of its value, the highest first and NaN last."""

    def descending(layer: str) -> float:
        if math.isnan(values[layer]):
            return math.inf
        return -values[layer]

    return {layer: place for place, layer in enumerate(sorted(values, key=descending), start=1)}


def _check(
    conflict: ConflictMatrix, masks: LanguageMasks | None, layers: list[str], budget: int
) -> None:
    if not layers:
        raise ConfigurationError(
            "A plan needs the conflict of numbered layers. Found none in the result. Call"
            " `gradient_conflict(model, batches, per_layer=True)`."
        )
    if len(conflict.languages) < 2:
        raise ConfigurationError(
            f"A plan needs at least two languages. Found {list(conflict.languages)}. Pass"
            " `gradient_conflict` the batches of another one."
        )

    if not 1 <= budget <= len(layers):
        raise ConfigurationError(
            f"`budget` must be a number of layers from 1 to {len(layers)}, as many as the model"
            f" has. Found {budget}. Use for example 1."
        )
    if masks is not None and set(masks.languages) != set(conflict.languages):
        raise ConfigurationError(
            f"Conflict and masks must be of the same languages. Found {list(conflict.languages)}"
            f" and {list(masks.languages)}. Measure both on the same texts."
        )

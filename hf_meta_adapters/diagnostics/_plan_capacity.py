"""Where to put language-specific capacity, and which languages can share it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters.anatomy.layers import layer_index
from hf_meta_adapters.diagnostics._capacity_plan import CapacityPlan, LayerNeed
from hf_meta_adapters.diagnostics._clusters import average_linkage
from hf_meta_adapters.diagnostics._conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics._language_masks import LanguageMasks
from hf_meta_adapters.diagnostics._mask_overlap import mask_overlap
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["plan_language_capacity"]


def plan_language_capacity(
    conflict: ConflictMatrix, masks: LanguageMasks | None, budget: int, *, share_above: float = 0.5
) -> CapacityPlan:
    """Return the `budget` layers in which languages differ most, and groups of languages that do not differ much.

    A layer is ranked by how far languages fall short of agreeing as well as a language agrees with
    itself:

        conflict      mean over pairs of √(c_ii c_jj) − c_ij      (cosines of that layer; √… = 1 without baseline)
        specificity   mean over pairs of (o_ii + o_jj)/2 − o_ij   (overlaps of masks; needs two seeds)

    and, where both are there, by the mean of its two ranks, which need no common scale. Languages
    are grouped by average linkage on the disattenuated cosine of the whole model. This is advice
    from a heuristic: that a layer has conflict does not prove that capacity there helps, only a
    training run does.

    Args:
        conflict: Result of `gradient_conflict(..., per_layer=True)`.
        masks: Result of `learn_language_masks` on the same model and languages, or `None`.
        budget: Number of layers that may get language-specific capacity.
        share_above: Languages may share an adapter where the mean cosine between them is at least
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
        >>> x = {"en": torch.tensor([1.0, 0.0]), "fr": torch.tensor([1.0, 0.1]), "sw": torch.tensor([-1.0, 0.0])}
        >>> batches = {language: {"x": direction} for language, direction in x.items()}
        >>> conflict = gradient_conflict(model, batches, per_layer=True, loss_function=loss_function)
        >>> plan = plan_language_capacity(conflict, None, budget=1, share_above=0.9)
        >>> plan.target_layers, plan.groups
        (('1',), (('en', 'fr'), ('sw',)))
    """
    layers = [layer for layer in conflict.per_layer if layer_index(layer) is not None]
    _check(conflict, masks, layers, budget)
    conflicts = {
        layer: _shortfall(conflict.per_layer[layer], conflict.baseline is not None)
        for layer in layers
    }
    specificities = _specificities(masks)
    ranked = _rank(conflicts, specificities)
    needs = tuple(
        LayerNeed(layer, conflicts[layer], specificities.get(layer), rank)
        for layer, rank in ranked.items()
    )
    similarity = conflict.matrix if conflict.disattenuated is None else conflict.disattenuated
    groups = average_linkage(similarity, share_above)
    chosen = {need.layer for need in needs[:budget]}
    return CapacityPlan(
        target_layers=tuple(layer for layer in layers if layer in chosen),
        groups=tuple(tuple(conflict.languages[index] for index in group) for group in groups),
        layers=needs,
        languages=conflict.languages,
        similarity=similarity,
        share_above=share_above,
    )


def _shortfall(cosines: Tensor, has_baseline: bool) -> float:
    own = (
        cosines.diagonal().clamp(min=0).sqrt()
        if has_baseline
        else torch.ones(len(cosines), dtype=cosines.dtype)
    )
    return _mean_of_pairs(own.unsqueeze(0) * own.unsqueeze(1) - cosines)


def _specificities(masks: LanguageMasks | None) -> dict[str, float]:
    """Return layer → specificity; nothing without masks of two seeds, which give no baseline."""
    if masks is None or len(masks.seeds) < 2:
        return {}
    overlaps = mask_overlap(masks).per_layer
    own = {layer: overlap.diagonal() for layer, overlap in overlaps.items()}
    return {
        k: _mean_of_pairs((own[k].unsqueeze(0) + own[k].unsqueeze(1)) / 2 - o)
        for k, o in overlaps.items()
    }


def _mean_of_pairs(matrix: Tensor) -> float:
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return float(matrix[rows, columns].nanmean())


def _rank(conflicts: Mapping[str, float], specificities: Mapping[str, float]) -> dict[str, float]:
    """Return layer → mean rank from 1, the neediest first; a NaN comes last."""

    def ranks(values: Mapping[str, float]) -> dict[str, int]:
        known = {layer: values.get(layer, math.nan) for layer in conflicts}
        descending = sorted(
            known, key=lambda layer: math.inf if math.isnan(known[layer]) else -known[layer]
        )
        return {layer: place for place, layer in enumerate(descending, start=1)}

    tables = [ranks(values) for values in (conflicts, specificities) if values]
    mean = {layer: sum(table[layer] for table in tables) / len(tables) for layer in conflicts}
    return dict(sorted(mean.items(), key=lambda item: (item[1], tables[0][item[0]])))


def _check(
    conflict: ConflictMatrix, masks: LanguageMasks | None, layers: list[str], budget: int
) -> None:
    if not layers:
        raise ConfigurationError(
            "A plan needs the conflict of numbered layers. Found none in the result. Write "
            "`gradient_conflict(model, batches, per_layer=True)`."
        )
    if len(conflict.languages) < 2:
        raise ConfigurationError(
            f"A plan needs at least two languages. Found {list(conflict.languages)}. Give"
            " `gradient_conflict` the batches of another."
        )
    if not 1 <= budget <= len(layers):
        raise ConfigurationError(
            f"`budget` must be a number of layers from 1 to {len(layers)}, as many as the model"
            f" has. Found {budget}. Write for example 1."
        )
    if masks is not None and set(masks.languages) != set(conflict.languages):
        raise ConfigurationError(
            f"Conflict and masks must be of the same languages. Found {list(conflict.languages)}"
            f" and {list(masks.languages)}. Measure both on the same texts."
        )

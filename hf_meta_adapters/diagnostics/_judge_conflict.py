"""Do the gradients of languages oppose one another, beyond what noise explains?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._simultaneous import Estimate, simultaneous
from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics.finding import Finding
from hf_meta_adapters.results.tables import format_number

__all__ = ["judge_conflict"]

_MOST_NAMED = 4  # pairs, or layers; the tables have all of them


def judge_conflict(conflict: ConflictMatrix | None) -> Finding:
    """Return the pairs of languages, and the layers, whose cosine is below 0 beyond noise.

    A pair counts if its interval lies below 0, widened for all pairs; a layer if that of any pair
    in it does, widened for all pairs of all layers. Where not even two texts of one language agree
    beyond noise, no conflict could have been seen.

    Args:
        conflict: The cosines; `None` if they were not measured.

    Returns:
        The finding.
    """
    if conflict is None:
        text = "The gradients of the languages were not compared."
        return Finding("conflict", "not measured", text)

    if conflict.interval is None:
        fewest = min(conflict.number_of_batches)
        text = (
            "There is too little text for intervals, so conflict cannot be told from noise. It"
            " takes four batches of every language, eight or more to be useful. Found"
            f" {fewest}."
        )
        return Finding("conflict", "unclear", text)

    whole = {"": (conflict.matrix, conflict.interval)}
    pairs = _opposed(conflict, whole)[""]

    layers = _opposed(conflict, _measured_layers(conflict))
    where = tuple(layer for layer, found in layers.items() if found)
    if pairs or where:
        text = _shown(pairs, {layer: layers[layer] for layer in where})
        in_layers = [pair for layer in where for pair in layers[layer]]
        return Finding(
            "conflict",
            "shown",
            text,
            pairs=tuple(dict.fromkeys([*pairs, *in_layers])),
            layers=where,
        )

    between = format_number(conflict.between_languages, 2)
    within = format_number(conflict.within_languages, 2)
    text = (
        f"No conflict visible: no pair of languages has a cosine that lies clearly below 0 (mean"
        f" {between}; between texts of one language {within})."
    )

    noisy = _noisy(conflict)
    if not noisy:
        return Finding("conflict", "not shown", text)

    names = ", ".join(noisy)
    if len(noisy) == len(conflict.languages):
        names = "all languages"
    text += (
        f" For {names}, this says little: not even different texts of the language itself agree"
        " beyond noise. Use more text."
    )
    return Finding("conflict", "unclear", text)


Found = dict[tuple[Language, Language], float]
"""Pair of languages → the cosine of their gradients."""


def _opposed(
    conflict: ConflictMatrix, measured: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Found]:
    """Return part of the model → the pairs whose widened interval lies below 0, the lowest first.

    Args:
        conflict: The result.
        measured: Part → cosines, (L, L), and their intervals, (L, L, 2).
    """
    pairs = list(combinations(range(len(conflict.languages)), 2))
    comparisons = max(1, len(pairs) * len(measured))

    opposed: dict[str, Found] = {}
    for part, (cosines, intervals) in measured.items():
        found: Found = {}
        for i, j in pairs:
            low, high = intervals[i, j].tolist()
            estimate = Estimate(float(cosines[i, j]), low, high)
            if simultaneous(estimate, conflict.confidence, comparisons).is_below_zero:
                found[conflict.languages[i], conflict.languages[j]] = estimate.value

        opposed[part] = dict(sorted(found.items(), key=lambda item: item[1]))

    return opposed


def _measured_layers(conflict: ConflictMatrix) -> dict[str, tuple[Tensor, Tensor]]:
    """Return layer → its cosines and their intervals."""
    return {
        layer: (conflict.per_layer[layer], interval)
        for layer, interval in conflict.layer_intervals.items()
    }


def _noisy(conflict: ConflictMatrix) -> list[Language]:
    """Return the languages that do not agree with themselves beyond noise."""
    if conflict.interval is None:
        return []

    lows = conflict.interval.diagonal(dim1=0, dim2=1)[0].tolist()
    return [key for key, low in zip(conflict.languages, lows, strict=True) if not low > 0]


def _shown(pairs: Found, layers: Mapping[str, Found]) -> str:
    """Return which gradients oppose one another, and where."""
    text = "The gradients oppose one another in single layers only."
    if pairs:
        text = f"The gradients oppose one another: {_first(pairs)}."

    if layers:
        in_layers = [f"{layer} ({_first(found, most=1)})" for layer, found in layers.items()]
        text += f" Layers in which some do: {', '.join(in_layers[:_MOST_NAMED])}"
        text += _rest(len(in_layers) - _MOST_NAMED)

    return text


def _first(found: Found, most: int = _MOST_NAMED) -> str:
    named = [f"{a}–{b} {format_number(cosine, 2)}" for (a, b), cosine in found.items()]
    return ", ".join(named[:most])


def _rest(more: int) -> str:
    if more > 0:
        return f", and {more} more."

    return "."

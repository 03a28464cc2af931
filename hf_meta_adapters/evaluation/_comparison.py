"""Which method is better? Scores of several methods over the same languages and seeds, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)
from hf_meta_adapters.evaluation.method_comparison import MethodComparison, PairedDifference

__all__ = ["compare_methods"]


def compare_methods(
    scores: Mapping[str, Mapping[Language, Sequence[float]]],
    *,
    treatments: Sequence[str] = (),
    metric: str = "score",
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> MethodComparison:
    r"""Compute d̄ ± t_{n−1} s_d / √n of the paired differences of each treatment to each other method, over n seeds.

    The unit is a seed: d is the difference of the means over languages of two models of one seed,
    since languages of one model are not independent. P-values are those of the paired t test,
    adjusted for the number of comparisons by Holm (1979). With a handful of seeds only large and
    steady differences are significant.

    Args:
        scores: Method → language → one score a seed, in the same order of seeds.
        treatments: The methods that are compared with all others.
        metric: What the scores are.
        higher_is_better: Their direction.
        confidence: Coverage of the intervals.

    Returns:
        The comparison.

    Raises:
        LanguageError: If methods have other languages.
        DataError: If methods have other numbers of seeds, or a score is not finite.
        ConfigurationError: If a treatment has no scores.

    Example:
        >>> scores = {"joint": {"en": [80.0, 81.0, 82.0]}, "meta": {"en": [82.0, 83.0, 85.0]}}
        >>> (found,) = compare_methods(scores, treatments=["meta"]).differences
        >>> round(found.mean, 3), round(found.p_value, 3)
        (2.333, 0.02)
    """
    if not scores or (unknown := sorted(set(treatments) - set(scores))):
        raise ConfigurationError(
            f"`treatments` must be methods that have scores, {list(scores)}. Found"
            f" {unknown if scores else treatments}."
        )
    if not 0 < confidence < 1:
        raise ConfigurationError(
            f"`confidence` must be in (0, 1). Found {confidence}. Write for example 0.95."
        )
    languages = check_languages(next(iter(scores.values())))
    matrices = {name: _matrix(name, own, languages) for name, own in scores.items()}
    seeds = {matrix.shape[1] for matrix in matrices.values()}
    if len(seeds) > 1:
        counts = {name: matrix.shape[1] for name, matrix in matrices.items()}
        raise DataError(
            f"Methods are compared seed by seed. Found numbers of seeds {counts}. Score all of"
            " them."
        )
    sign = 1.0 if higher_is_better else -1.0
    pairs = [(a, b) for a, b in product(treatments, matrices) if a != b]
    raw = [_difference(a, b, sign * (matrices[a] - matrices[b]), confidence) for a, b in pairs]
    return MethodComparison(
        metric=metric,
        higher_is_better=higher_is_better,
        confidence=confidence,
        languages=languages,
        scores={name: matrix.tolist() for name, matrix in matrices.items()},
        means={name: _interval(matrix.mean(0), confidence) for name, matrix in matrices.items()},
        differences=_holm(raw),
    )


def _matrix(
    name: str, scores: Mapping[Language, Sequence[float]], languages: Sequence[Language]
) -> NDArray[Any]:
    """Return scores as (languages, seeds)."""
    if set(scores) != set(languages):
        raise LanguageError(
            f"Methods are compared on the same languages. Found {sorted(scores)} for {name!r},"
            f" where another has {sorted(languages)}. Leave the others out."
        )
    rows = [np.asarray(scores[language], dtype=np.float64) for language in languages]
    if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1 or not rows[0].size:
        raise DataError(
            f"Each language must have one score a seed. Found {[row.shape for row in rows]} for"
            f" {name!r}. Score all."
        )
    matrix = np.stack(rows)
    if not np.isfinite(matrix).all():
        raise DataError(
            f"Scores must be finite. Found {matrix[~np.isfinite(matrix)][0]} for {name!r}. Leave"
            " out what has no score."
        )
    return matrix


def _interval(values: NDArray[Any], confidence: float) -> tuple[float, float, float]:
    """Return the mean and the ends of its t interval, NaN for one value."""
    from scipy import stats

    mean = float(values.mean())
    if values.size < 2:
        return mean, math.nan, math.nan
    half = float(
        stats.t.ppf((1 + confidence) / 2, values.size - 1)
        * values.std(ddof=1)
        / math.sqrt(values.size)
    )
    return mean, mean - half, mean + half


def _difference(
    treatment: str, baseline: str, differences: NDArray[Any], confidence: float
) -> PairedDifference:
    from scipy import stats

    per_seed = differences.mean(0)
    mean, low, high = _interval(per_seed, confidence)
    p_value = math.nan
    if per_seed.size > 1:
        error = float(per_seed.std(ddof=1)) / math.sqrt(per_seed.size)
        p_value = (
            float(2 * stats.t.sf(abs(mean) / error, per_seed.size - 1))
            if error
            else float(mean == 0)
        )
    wins = int((differences > 0).sum())
    return PairedDifference(
        treatment, baseline, mean, low, high, p_value, wins, int(differences.size)
    )


def _holm(differences: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """Adjust p-values: p̃_(k) = max over j ≤ k of min(1, (m − j + 1) p_(j))."""
    tested = sorted((d for d in differences if not math.isnan(d.p_value)), key=lambda d: d.p_value)
    adjusted, largest = {}, 0.0
    for rank, one in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * one.p_value))
        adjusted[one.treatment, one.baseline] = largest
    return tuple(
        replace(d, p_value=adjusted.get((d.treatment, d.baseline), math.nan)) for d in differences
    )

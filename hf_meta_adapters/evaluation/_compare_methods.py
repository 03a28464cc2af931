"""Which method is better? Scores of several methods over the same languages and seeds, tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)
from hf_meta_adapters.evaluation._metrics_library import metrics_library
from hf_meta_adapters.evaluation.holm import adjust_by_holm
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
    r"""Compute d̄ ± t_{n−1} s_d / √n, paired over n seeds, of treatments against all other methods.

    The unit is a seed: d is the difference of the means over languages of two models of one seed,
    since languages of one model are not independent. P-values are those of the paired t test,
    adjusted for the number of comparisons by Holm (1979). With a handful of seeds, only large and
    steady differences are significant.

    Args:
        scores: Method → language → one score per seed, in the same order of seeds.
        treatments: The methods to compare with all others.
        metric: What the scores are.
        higher_is_better: Their direction.
        confidence: Coverage of the intervals.

    Returns:
        The comparison.

    Raises:
        LanguageError: If methods have different languages.
        DataError: If methods have different numbers of seeds, or a score is not finite.
        ConfigurationError: If a treatment has no scores.

    Example:
        >>> scores = {"joint": {"en": [80.0, 81.0, 82.0]}, "meta": {"en": [82.0, 83.0, 85.0]}}
        >>> (difference,) = compare_methods(scores, treatments=["meta"]).differences
        >>> round(difference.mean, 3), round(difference.p_value, 3)
        (2.333, 0.02)
    """
    _check_settings(list(scores), treatments, confidence)
    languages = check_languages(next(iter(scores.values())))
    matrices = _matrices(scores, languages)
    means = {name: _t_test(matrix.mean(0), confidence) for name, matrix in matrices.items()}

    # Signed so that a positive difference means a better treatment, whatever the metric.
    sign = 1.0 if higher_is_better else -1.0
    differences = []
    for treatment in treatments:
        for baseline in matrices:
            if treatment != baseline:
                gains = sign * (matrices[treatment] - matrices[baseline])
                differences.append(_difference(treatment, baseline, gains, confidence))

    return MethodComparison(
        metric=metric,
        higher_is_better=higher_is_better,
        confidence=confidence,
        languages=languages,
        scores={name: matrix.tolist() for name, matrix in matrices.items()},
        means={name: (test.mean, test.low, test.high) for name, test in means.items()},
        differences=adjust_by_holm(differences),
    )


def _check_settings(methods: Sequence[str], treatments: Sequence[str], confidence: float) -> None:
    unknown = sorted(set(treatments) - set(methods))
    if not methods or unknown:
        raise ConfigurationError(
            f"`treatments` must be methods that have scores, {list(methods)}. Found"
            f" {unknown if methods else treatments}. Pass the scores of every treatment."
        )

    if not 0 < confidence < 1:
        raise ConfigurationError(
            f"`confidence` must be in (0, 1). Found {confidence}. Use for example 0.95."
        )


def _matrices(
    scores: Mapping[str, Mapping[Language, Sequence[float]]], languages: Sequence[Language]
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of each method as a matrix (languages, seeds), all of one shape."""
    matrices = {}
    for name, by_language in scores.items():
        # The languages of every matrix are in the same order, whatever that of the scores.
        matrices[name] = _matrix(name, by_language, languages)

    seeds = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if len(set(seeds.values())) > 1:
        raise DataError(
            f"Methods are compared seed by seed. Found these numbers of seeds: {seeds}. Score every"
            " method with every seed."
        )
    return matrices


def _matrix(
    name: str, scores: Mapping[Language, Sequence[float]], languages: Sequence[Language]
) -> NDArray[np.float64]:
    if set(scores) != set(languages):
        raise LanguageError(
            f"Methods are compared on the same languages. Found {sorted(scores)} for {name!r},"
            f" where another method has {sorted(languages)}. Remove the languages that are not"
            " common to all."
        )

    rows = [np.asarray(scores[language], dtype=np.float64) for language in languages]
    shapes = [row.shape for row in rows]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not rows[0].size:
        raise DataError(
            f"Each language must have one score per seed. Found scores of the shapes {shapes} for"
            f" {name!r}. Score every language with every seed."
        )

    matrix = np.stack(rows)
    finite = np.isfinite(matrix)
    if not finite.all():
        raise DataError(
            f"Scores must be finite. Found {matrix[~finite][0]} for {name!r}. Remove the languages"
            " or seeds without a score."
        )
    return matrix


class _TTest(NamedTuple):
    """A mean over seeds, its t interval, and the p-value of its being 0."""

    mean: float
    low: float
    high: float
    p_value: float


def _t_test(values: NDArray[np.float64], confidence: float) -> _TTest:
    """Test the mean of n values, one per seed; NaN where one seed says nothing of their spread."""
    mean = float(values.mean())
    if values.size < 2:
        return _TTest(mean, math.nan, math.nan, math.nan)

    # Without variance t is ±∞ or 0/0, of which scipy warns: the mean is certain.
    if np.ptp(values) == 0:
        return _TTest(mean, mean, mean, p_value=float(mean == 0))

    # For differences this is the paired test: ttest_rel(a, b) is ttest_1samp(a − b, 0).
    test = metrics_library("scipy.stats").ttest_1samp(values, popmean=0.0)
    interval = test.confidence_interval(confidence)

    return _TTest(mean, float(interval.low), float(interval.high), float(test.pvalue))


def _difference(
    treatment: str, baseline: str, gains: NDArray[np.float64], confidence: float
) -> PairedDifference:
    """Test the gains of a treatment over a baseline, a matrix (languages, seeds)."""
    # The mean over languages comes first: seeds are independent, languages of a model are not.
    test = _t_test(gains.mean(0), confidence)

    return PairedDifference(
        treatment=treatment,
        baseline=baseline,
        mean=test.mean,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        wins=int((gains > 0).sum()),
        pairs=int(gains.size),
    )

"""Metrics of several languages, averaged."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

from hf_meta_adapters._typing import Language


def language_means(
    metrics: Mapping[Language, Mapping[str, object]], prefix: str
) -> dict[str, float]:
    """The mean over languages of every number that all of them have.

    Args:
        metrics: language → `{prefix}_{language}_{name}` → value.
        prefix: Such as "eval".

    Returns:
        `{prefix}_{name}` → mean.

    Example:
        >>> language_means({"en": {"eval_en_loss": 1.0}, "sw": {"eval_sw_loss": 2.0}}, "eval")
        {'eval_loss': 1.5}
    """
    # `compute_metrics` may return anything, and other things for other languages.
    values: dict[str, list[float]] = {}
    for language, of_language in metrics.items():
        for name, value in of_language.items():
            if isinstance(value, Real):
                short_name = name.removeprefix(f"{prefix}_{language}_")
                values.setdefault(short_name, []).append(float(value))

    means = {}
    for name, numbers in values.items():
        if len(numbers) == len(metrics):
            means[f"{prefix}_{name}"] = sum(numbers) / len(numbers)

    return means

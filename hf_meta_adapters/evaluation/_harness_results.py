"""What the harness has measured, read into scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import JsonObject, Language
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["HarnessResult", "chosen_metric", "common_metrics", "read_results"]

_NO_FILTER = "none"


@dataclass(frozen=True)
class HarnessResult:
    """The scores of one language.

    Args:
        metrics: Metric → value.
        errors: Metric → its standard error, where the harness knows one.
        higher_is_better: Metric → its direction.
        examples: How many examples were scored.
        num_fewshot: How many examples each prompt showed.
        per_example: Metric → its value for each example, where the metric is their mean.
    """

    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    examples: int
    num_fewshot: int
    per_example: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def read_results(name: str, results: JsonObject) -> HarnessResult:
    """Read what `simple_evaluate` returned for one task, or for one group of tasks.

    Args:
        name: The name of the task.
        results: The results.

    Raises:
        ConfigurationError: If it has no score of its own, as some groups.
    """
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    directions: dict[str, bool] = {}
    per_example = {}

    said = results["higher_is_better"].get(name, {})
    for key, value in results["results"].get(name, {}).items():
        measured, comma, chosen = key.partition(",")
        # also entries such as the alias, and "N/A"
        if not comma or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue

        label = measured if chosen == _NO_FILTER else key
        if measured.endswith("_stderr"):
            errors[label.replace("_stderr", "", 1)] = float(value)
            continue

        metrics[label] = float(value)
        if isinstance(said.get(measured), bool):
            directions[label] = said[measured]
        values = _values(results, name, measured, chosen)
        if len(values) and math.isclose(float(values.mean()), value, rel_tol=1e-9, abs_tol=1e-12):
            per_example[label] = values

    if not metrics:
        raise ConfigurationError(
            f"A task must have a score of its own. Found none for {name!r}, which is a group or a"
            f" tag of {sorted(results['n-samples'])[:8]}. Name one of these."
        )

    counts = {task: count["effective"] for task, count in results["n-samples"].items()}
    shots = {task: int(count) for task, count in results["n-shot"].items()}
    return HarnessResult(
        metrics,
        errors,
        directions,
        examples=counts.get(name, sum(counts.values())),
        num_fewshot=shots.get(name, max(shots.values(), default=0)),
        per_example=per_example,
    )


def common_metrics(found: Mapping[Language, HarnessResult]) -> list[str]:
    """The metrics that all languages have, in the order of the first.

    Raises:
        ConfigurationError: If there is none.
    """
    first, *others = found.values()
    common = [name for name in first.metrics if all(name in one.metrics for one in others)]
    if common:
        return common

    listed = {language: list(one.metrics) for language, one in found.items()}
    raise ConfigurationError(
        f"The task must have a metric in common in all languages. Found {listed}. Score these"
        " languages one by one."
    )


def chosen_metric(
    metric: str | None, known: list[str], found: Mapping[Language, HarnessResult]
) -> tuple[str, bool]:
    """The metric that stands for the task, and whether more of it is better.

    Raises:
        ConfigurationError: If there is no such metric, or the harness does not know its direction.
    """
    name = metric or known[0]
    if name not in known:
        raise ConfigurationError(
            f"`metric` must be one that the task has in every language, {known}. Found {name!r}."
        )

    directions = {one.higher_is_better.get(name) for one in found.values()}
    (direction,) = directions if len(directions) == 1 else (None,)
    if direction is None:
        raise ConfigurationError(
            f"The task must say whether more of a metric is better. Found nothing of it for"
            f" {name!r}. Pass another of {known} as `metric`, or set `higher_is_better` in the"
            " task's YAML."
        )
    return name, direction


def _values(results: JsonObject, name: str, metric: str, chosen: str) -> NDArray[np.float64]:
    """The value of a metric for each example, after a filter; empty where it is no number."""
    rows: list[Any] = results.get("samples", {}).get(name, [])
    values = [row.get(metric) for row in rows if row["filter"] == chosen]
    if not all(isinstance(value, (bool, int, float)) for value in values):
        return np.empty(0)
    return np.array(values, dtype=np.float64)

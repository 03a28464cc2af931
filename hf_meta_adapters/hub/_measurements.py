"""What a manifest records of a run, read for the model card.

A manifest may come from somebody else's repository, so every entry is checked before it is used; an
entry of another form is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hf_meta_adapters._typing import Language
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.hub.manifest import Family
from hf_meta_adapters.hub.record import as_list

_SETTINGS = (
    "preset",
    "adapter_update",
    "meta_gradient",
    "lookahead",
    "inner_optimizer",
    "inner_learning_rate",
    "indirect_ratio",
    "meta_every",
    "shared_update",
    "languages_per_step",
    "sampling",
    "sampling_alpha",
    "sampling_max_epochs",
    "sampling_end_alpha",
    "sampling_temperature",
    "language_weights",
    "language_weights_rate",
    "steps",
    "learning_rate",
    "adapter_learning_rate",
    "embedding_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "rows_per_language_and_step",
    "precision",
    "seed",
)
"""What the card shows of the settings, in this order; the manifest has all of them."""


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one task.

    Args:
        task: The name of the task.
        metric: Its main metric.
        values: Language → value.
        dataset: What they were measured on; "" if unknown.
        source_language: The language of the labels in training, for zero-shot scores.
    """

    task: str
    metric: str
    values: Mapping[Language, float]
    dataset: str = ""
    source_language: str | None = None


def own_scores(family: Family) -> list[Scores]:
    """The scores of the model itself."""
    return _all_scores(family.details.get("scores"), family.languages)


def baseline_scores(family: Family) -> list[tuple[str, Scores]]:
    """The scores of other models that it was compared with, each with the name of the model."""
    baselines = family.details.get("baselines")
    if not isinstance(baselines, Mapping):
        return []

    named: list[tuple[str, Scores]] = []
    for name, entries in baselines.items():
        named += [(str(name), scores) for scores in _all_scores(entries, family.languages)]
    return named


def settings(family: Family) -> Iterator[tuple[str, str]]:
    """The settings of the training run that somebody needs who wants to repeat it."""
    training = family.details.get("training")
    if not isinstance(training, Mapping):
        return

    for name in _SETTINGS:
        value = training.get(name)
        if isinstance(value, (str, int, float)):
            yield name, str(value)


def data_sets(family: Family) -> list[str]:
    """The names of the data sets on the Hub that a model was trained on."""
    found = as_list(family.details.get("datasets"))
    return [name for name in found if isinstance(name, str) and is_repo_id(name)]


def data_rows(family: Family) -> list[tuple[Language, str, str]]:
    """The rows of training text and of meta text of each language; "" where they are unknown."""
    data = family.details.get("data")
    if not isinstance(data, Mapping):
        return []

    rows = []
    for key in family.languages:
        counts = data.get(key)
        if isinstance(counts, Mapping):
            rows.append((key, _count(counts.get("train")), _count(counts.get("meta"))))
    return rows


def number(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    # `True` is an `int` to Python, but no measurement.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value):
        return None
    return float(value)


def _all_scores(entries: object, languages: Sequence[Language]) -> list[Scores]:
    parsed = [_scores(entry, languages) for entry in as_list(entries)]
    return [scores for scores in parsed if scores is not None]


def _scores(entry: object, languages: Sequence[Language]) -> Scores | None:
    """An entry in the form of `LanguageScores.to_dict()`; `None` for one of another form."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("scores"), Mapping):
        return None

    task, metric = entry.get("task"), entry.get("metric")
    if not isinstance(task, str) or not isinstance(metric, str):
        return None

    values = _values(entry["scores"], metric, languages)
    if not values:
        return None

    dataset, source = entry.get("dataset"), entry.get("source_language")
    return Scores(
        task,
        metric,
        values,
        dataset=dataset if isinstance(dataset, str) else "",
        source_language=source or None,
    )


def _values(
    scores: Mapping[Language, object], metric: str, languages: Sequence[Language]
) -> dict[Language, float]:
    """The main metric of each language that has a finite one."""
    values = {}

    # The languages of the family, not those of the entry, whose keys nobody has checked.
    for key in languages:
        metrics = scores.get(key)
        if not isinstance(metrics, Mapping):
            continue

        value = number(metrics.get(metric))
        if value is not None:
            values[key] = value

    return values


def _count(value: object) -> str:
    if not isinstance(value, int):
        return ""
    return f"{value:,}"

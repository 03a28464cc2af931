"""Metrics of several languages as those of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

from transformers.trainer_utils import EvalLoopOutput, speed_metrics

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import DataError

_PREPARATION = "model_preparation_time"
"""An entry of the evaluation of a model that was not trained before."""


def joined_metrics(
    outputs: Mapping[Language, EvalLoopOutput], prefix: str, start: float, batch_size: int
) -> dict[str, float]:
    """The metrics of all languages, their means, and the speed of the whole evaluation.

    Args:
        outputs: language → what was measured.
        prefix: Such as "eval".
        start: When the evaluation began, in seconds of `time.time`.
        batch_size: Rows of a batch, over all processes.

    Returns:
        `{prefix}_{language}_{name}`, `{prefix}_{name}` (the mean), and `{prefix}_runtime`,
        `{prefix}_samples_per_second` and `{prefix}_steps_per_second`.

    Raises:
        DataError: If nothing could be measured, since rows have no labels.
    """
    by_name: dict[Language, dict[str, float]] = {}
    preparation: dict[str, float] = {}
    for language, output in outputs.items():
        metrics = dict(output.metrics)
        # One number in all languages: that of the model.
        seconds = metrics.pop(f"{prefix}_{language}_{_PREPARATION}", None)
        if seconds is not None:
            preparation[f"{prefix}_{_PREPARATION}"] = seconds
        by_name[language] = metrics

    unlabeled = [language for language, metrics in by_name.items() if not metrics]
    if unlabeled:
        raise DataError(
            f"Rows that are scored must have labels. Found none in the data of {unlabeled}. Give"
            " the rows labels, or pass a `processing_class` or a `data_collator` that makes them;"
            " `predict` takes rows without."
        )

    # One log line of all languages: reporters draw the curves of a step together.
    joined = {name: value for metrics in by_name.values() for name, value in metrics.items()}
    joined.update(language_means(by_name, prefix))

    counts = [output.num_samples for output in outputs.values()]
    steps = sum(-(-count // batch_size) for count in counts)
    begun = start + sum(preparation.values())
    speed = speed_metrics(prefix, begun, num_samples=sum(counts), num_steps=steps)
    return {**joined, **preparation, **speed}


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

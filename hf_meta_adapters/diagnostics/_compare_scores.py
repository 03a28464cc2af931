"""What joint training costs each language: monolingual minus joint scores, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._bootstrap import (
    check_bootstrap,
    percentile_interval,
    resampled_means,
)
from hf_meta_adapters.diagnostics.interference import Interference, InterferenceReport
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)

__all__ = ["interference_report"]

Scores: TypeAlias = float | Sequence[float] | Sequence[Sequence[float]] | Tensor
"""One score; one per seed or example, (n,); or one per seed and example, (seeds, examples)."""

ScoresOfLanguage: TypeAlias = Scores | Mapping[str, Scores]
"""Scores of one language, or task → scores."""

ExamplesSeen: TypeAlias = int | Mapping[Language, int]
"""How many training examples a model saw of all languages alike, or of each."""


def interference_report(
    monolingual: Mapping[Language, ScoresOfLanguage],
    joint: Mapping[Language, ScoresOfLanguage],
    *,
    higher_is_better: bool | Mapping[str, bool] = True,
    metric: str = "score",
    monolingual_examples_seen: ExamplesSeen | None = None,
    joint_examples_seen: ExamplesSeen | None = None,
    allow_unequal: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> InterferenceReport:
    """Return `monolingual − joint` per language and task: above 0, joint training is worse.

    Negative interference as Wang, Lipton and Tsvetkov (2020) measure it. For scores such as losses
    and bits per character, where lower is better, the sign is reversed. Intervals come from the
    bootstrap of the *paired* differences, over seeds, examples, or both at once (Owen 2007), so
    that what both models find hard does not widen them. A handful of seeds gives only a rough
    interval.

    Args:
        monolingual: Language → scores, or language → task → scores, of models trained on that
            language alone. Scores are a number; a sequence over seeds or over examples; or a matrix
            of seeds × examples.
        joint: The same for the model trained on all languages, in the same order of seeds and
            examples.
        higher_is_better: Whether a higher score is better, for all tasks or for each.
        metric: What the scores are, such as `"F1"` or `"bits per character"`, for tables and
            pictures.
        monolingual_examples_seen: Training examples of the language that its monolingual model saw,
            for all languages or for each.
        joint_examples_seen: Training examples of the language that the joint model saw.
        allow_unequal: Accept different numbers of examples; the table then reports them.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        confidence: Coverage of the intervals.
        seed: Seed of the bootstrap.

    Returns:
        The differences.

    Raises:
        LanguageError: If the two sides do not have the same languages.
        ConfigurationError: If one model saw more than the other, or a setting cannot work.
        DataError: If tasks or numbers of scores do not match, or a score is not finite.

    Example:
        >>> monolingual = {"en": [80.0, 82.0], "sw": [60.0, 61.0]}
        >>> joint = {"en": [79.0, 80.0], "sw": [63.0, 64.0]}
        >>> [row.difference for row in interference_report(monolingual, joint).rows]
        [1.5, -3.0]
    """
    check_bootstrap(resamples, confidence)
    languages = check_languages(monolingual)
    if set(languages) != set(joint):
        raise LanguageError(
            "Interference compares the same languages on both sides. Found"
            f" {sorted(set(languages) ^ set(joint))} on one side only. Leave them out, or score"
            " them on both sides."
        )

    examples_seen = None
    if monolingual_examples_seen is not None or joint_examples_seen is not None:
        examples_seen = _compare_examples_seen(
            languages, monolingual_examples_seen, joint_examples_seen, allow_unequal=allow_unequal
        )

    # One generator for all rows: the interval of each uses draws of its own.
    generator = torch.Generator().manual_seed(seed)
    rows: list[Interference] = []
    for language in languages:
        alone, together = _by_task(monolingual[language]), _by_task(joint[language])
        _check_tasks(alone, together, language)

        for task in alone:
            a, b = _paired(alone[task], together[task], language, task)

            # A loss that rises costs as much as a score that falls.
            sign = -1
            if _is_higher_better(higher_is_better, task):
                sign = 1
            low, high = _interval(sign * (a - b), resamples, confidence, generator)

            mean_a, mean_b = float(a.mean()), float(b.mean())
            difference = sign * (mean_a - mean_b)
            rows.append(Interference(language, task, mean_a, mean_b, difference, low, high))

    return InterferenceReport(tuple(rows), metric, confidence, examples_seen)


def _by_task(scores: ScoresOfLanguage) -> dict[str | None, Scores]:
    """Return task → scores; the task is `None` for scores without tasks."""
    if isinstance(scores, Mapping):
        return dict(scores.items())

    return {None: scores}


def _paired(
    alone: Scores, together: Scores, language: Language, task: str | None
) -> tuple[Tensor, Tensor]:
    """Return the scores of both sides as float64, each of shape (seeds, examples)."""
    place = language
    if task is not None:
        place = f"{language} {task}"

    a, b = _as_matrix(alone, place), _as_matrix(together, place)
    if a.shape != b.shape:
        raise DataError(
            f"Scores are compared seed by seed and example by example. Found {tuple(a.shape)}"
            f" monolingual and {tuple(b.shape)} joint scores (seeds, examples) for {place}. Use the"
            " same seeds and test examples, or pass the mean of each side."
        )

    return a, b


def _as_matrix(scores: Scores, place: str) -> Tensor:
    """Return scores as a matrix, or refuse what is not one."""
    try:
        tensor = torch.as_tensor(scores, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "Scores must be numbers, with the same number of examples for each seed. Found"
            f" {type(scores).__name__} for {place}: {error}. Use for example [71.2, 70.8], or a"
            " matrix of seeds × examples."
        ) from error

    if tensor.dim() > 2 or not tensor.numel() or not torch.isfinite(tensor).all():
        raise DataError(
            "Scores must be finite: a number, a sequence, or a matrix of seeds × examples. Found"
            f" shape {tuple(tensor.shape)} with {int((~torch.isfinite(tensor)).sum())} scores that"
            f" are not finite, for {place}. Leave out failed seeds, on both sides."
        )

    # A sequence may be over seeds or over examples: the bootstrap over one dimension is the same.
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    return tensor


def _interval(
    differences: Tensor, resamples: int, confidence: float, generator: torch.Generator
) -> tuple[float, float]:
    """Return the ends of the bootstrap interval of the mean difference; NaN if there is none."""
    # A single difference has no spread that could be resampled.
    if resamples == 0 or differences.numel() == 1:
        return float("nan"), float("nan")

    means = resampled_means(differences, resamples, generator)
    low, high = percentile_interval(means, confidence).tolist()
    return low, high


def _is_higher_better(higher_is_better: bool | Mapping[str, bool], task: str | None) -> bool:
    if isinstance(higher_is_better, bool):
        return higher_is_better

    if task is None or task not in higher_is_better:
        raise ConfigurationError(
            "`higher_is_better` must be True, False, or a dict that names every task. Found"
            f" {dict(higher_is_better)}, without {task!r}. Use for example"
            ' {"ner": True, "loss": False}.'
        )

    return higher_is_better[task]


def _compare_examples_seen(
    languages: Sequence[Language],
    monolingual: ExamplesSeen | None,
    joint: ExamplesSeen | None,
    *,
    allow_unequal: bool,
) -> dict[Language, tuple[int, int]]:
    """Return how many examples of each language the (monolingual, joint) model saw."""
    if monolingual is None or joint is None:
        missing = "monolingual_examples_seen" if monolingual is None else "joint_examples_seen"
        raise ConfigurationError(
            "The examples seen must be given for both sides. Found no"
            f" `{missing}`. Pass it as well."
        )

    alone, together = _by_language(monolingual, languages), _by_language(joint, languages)
    unknown = [key for key in languages if key not in alone or key not in together]
    if unknown:
        raise ConfigurationError(
            f"The examples seen must be given for every language. Found none for {unknown}. Pass a"
            " number for each language, or one number for all."
        )

    # More training on one side would pass for interference.
    examples_seen = {key: (int(alone[key]), int(together[key])) for key in languages}
    unequal = {key: pair for key, pair in examples_seen.items() if pair[0] != pair[1]}
    if unequal and not allow_unequal:
        raise ConfigurationError(
            "Monolingual and joint models must have seen the same number of examples of a language,"
            " or the difference shows more than the effect of sharing. Found (monolingual, joint)"
            f" {unequal}. Train both equally long on it, or pass `allow_unequal=True` to have the"
            " numbers reported."
        )

    return examples_seen


def _by_language(seen: ExamplesSeen, languages: Sequence[Language]) -> Mapping[Language, int]:
    if isinstance(seen, Mapping):
        return seen

    return dict.fromkeys(languages, seen)


def _check_tasks(
    alone: Mapping[str | None, Scores], together: Mapping[str | None, Scores], language: Language
) -> None:
    if alone.keys() != together.keys():
        raise DataError(
            "Interference compares the same tasks on both sides. Found"
            f" {sorted(map(str, alone))} and {sorted(map(str, together))} for {language!r}."
            " Score both models on the same tasks."
        )

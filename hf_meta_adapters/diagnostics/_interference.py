"""What does joint training cost each language? Monolingual minus joint scores, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._bootstrap import (
    check_bootstrap,
    percentile_interval,
    resampled_means,
)
from hf_meta_adapters.diagnostics._interference_report import Interference, InterferenceReport
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)

__all__ = ["interference_report"]

Scores: TypeAlias = float | Sequence[Any] | Tensor
"""One score; one per seed or example, shape (n,); or one per seed and example, shape (seeds, examples)."""

ExamplesSeen: TypeAlias = int | Mapping[Language, int]


def interference_report(
    monolingual: Mapping[Language, Scores | Mapping[str, Scores]],
    joint: Mapping[Language, Scores | Mapping[str, Scores]],
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
    """Return `monolingual − joint` per language and task, so that positive means: joint training is worse.

    Negative interference as Wang, Lipton and Tsvetkov (2020) measure it. For losses and bits per
    character, where less is better, the sign is turned. Intervals come from the bootstrap of the
    *paired* differences, over seeds, examples, or both at once (Owen 2007), so that what both
    models find hard does not widen them. A handful of seeds gives a rough interval only.

    Args:
        monolingual: Language → scores, or language → task → scores, of models trained on that
            language alone. Scores are a number; a sequence over seeds or over examples; or a matrix
            of seeds × examples.
        joint: The same of the model trained on all languages, in the same order of seeds and
            examples.
        higher_is_better: Whether a higher score is a better one, for all tasks or each.
        metric: What the scores are, such as `"F1"` or `"bits per character"`, for tables and
            pictures.
        monolingual_examples_seen: Training examples of the language that its monolingual model saw,
            for all languages or each.
        joint_examples_seen: Training examples of the language that the joint model saw.
        allow_unequal: Accept different numbers of examples; the difference is then written under
            the table.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        confidence: Coverage of the intervals.
        seed: Seed of the bootstrap.

    Returns:
        The differences.

    Raises:
        LanguageError: If the two do not have the same languages.
        ConfigurationError: If one model saw more than the other, or a setting cannot work.
        DataError: If tasks or numbers of scores do not match, or a score is not finite.

    Example:
        >>> monolingual, joint = {"en": [80.0, 82.0], "sw": [60.0, 61.0]}, {"en": [79.0, 80.0], "sw": [63.0, 64.0]}
        >>> report = interference_report(monolingual, joint)
        >>> [row.difference for row in report.rows]
        [1.5, -3.0]
    """
    check_bootstrap(resamples, confidence)
    languages = check_languages(monolingual)
    if set(languages) != set(joint):
        raise LanguageError(
            "Interference compares the same languages on both sides. Found"
            f" {sorted(set(languages) ^ set(joint))} on one side only. Leave them out, or score"
            " them on both."
        )
    examples = _examples(languages, monolingual_examples_seen, joint_examples_seen, allow_unequal)
    generator = torch.Generator().manual_seed(seed)
    rows: list[Interference] = []
    for language in languages:
        alone, together = _by_task(monolingual[language]), _by_task(joint[language])
        if alone.keys() != together.keys():
            raise DataError(
                "Interference compares the same tasks on both sides. Found"
                f" {sorted(map(str, alone))} and {sorted(map(str, together))} for {language!r}."
                " Score both models on the same tasks."
            )
        for task in alone:
            where = language if task is None else f"{language} {task}"
            a, b = _scores(alone[task], where), _scores(together[task], where)
            sign = 1 if _is_higher_better(higher_is_better, task) else -1
            low, high = _interval(sign * _paired(a, b, where), resamples, confidence, generator)
            mean_a, mean_b = float(a.mean()), float(b.mean())
            rows.append(
                Interference(language, task, mean_a, mean_b, sign * (mean_a - mean_b), low, high)
            )
    return InterferenceReport(tuple(rows), metric, confidence, examples)


def _by_task(scores: Scores | Mapping[str, Scores]) -> dict[str | None, Scores]:
    return dict(scores.items()) if isinstance(scores, Mapping) else {None: scores}


def _scores(scores: Scores, where: str) -> Tensor:
    """Return scores as (seeds, examples)."""
    try:
        tensor = torch.as_tensor(scores, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "Scores must be numbers, with as many examples for each seed. Found"
            f" {type(scores).__name__} for {where}: {error}. Write for example [71.2, 70.8], or a"
            " matrix of seeds × examples."
        ) from error
    if tensor.dim() > 2 or not tensor.numel() or not torch.isfinite(tensor).all():
        raise DataError(
            "Scores must be finite: a number, a sequence, or a matrix of seeds × examples. Found"
            f" shape {tuple(tensor.shape)} with {int((~torch.isfinite(tensor)).sum())} that are not"
            f" finite, for {where}. Leave out, on both sides, the seeds of runs that failed."
        )
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor


def _paired(a: Tensor, b: Tensor, where: str) -> Tensor:
    if a.shape != b.shape:
        raise DataError(
            f"Scores are compared seed by seed and example by example. Found {tuple(a.shape)}"
            f" monolingual and {tuple(b.shape)} joint scores (seeds, examples) for {where}. Use the"
            " same seeds and test examples, or give the mean of each side."
        )
    return a - b


def _interval(
    differences: Tensor, resamples: int, confidence: float, generator: torch.Generator
) -> tuple[float, float]:
    if resamples == 0 or differences.numel() == 1:
        return float("nan"), float("nan")
    low, high = percentile_interval(
        resampled_means(differences, resamples, generator), confidence
    ).tolist()
    return low, high


def _is_higher_better(higher_is_better: bool | Mapping[str, bool], task: str | None) -> bool:
    if isinstance(higher_is_better, bool):
        return higher_is_better
    if task is None or task not in higher_is_better:
        raise ConfigurationError(
            "`higher_is_better` must be True, False, or name every task. Found"
            f" {dict(higher_is_better)}, without "
            f'{task!r}. Write for example {{"ner": True, "loss": False}}.'
        )
    return higher_is_better[task]


def _examples(
    languages: Sequence[Language],
    monolingual: ExamplesSeen | None,
    joint: ExamplesSeen | None,
    allow_unequal: bool,
) -> dict[Language, tuple[int, int]] | None:
    """Return how many examples of each language the two models saw, where it is told."""
    if monolingual is None and joint is None:
        return None
    if monolingual is None or joint is None:
        missing = "monolingual_examples_seen" if monolingual is None else "joint_examples_seen"
        raise ConfigurationError(
            f"The examples seen must be given for both sides. Found no `{missing}`. Give it too."
        )
    sides = [
        side if isinstance(side, Mapping) else dict.fromkeys(languages, side)
        for side in (monolingual, joint)
    ]
    if unknown := [
        language for language in languages if any(language not in side for side in sides)
    ]:
        raise ConfigurationError(
            f"The examples seen must be given for every language. Found none for {unknown}. Write a"
            " number for each, or one number for all languages."
        )
    seen = {language: (int(sides[0][language]), int(sides[1][language])) for language in languages}
    unequal = {language: pair for language, pair in seen.items() if pair[0] != pair[1]}
    if unequal and not allow_unequal:
        raise ConfigurationError(
            "Monolingual and joint models must have seen as many examples of a language, or the"
            f" difference is not one of sharing. Found (monolingual, joint) {unequal}. Train both"
            " equally long on it, or write `allow_unequal=True` to have the difference reported."
        )
    return seen

"""The scores of a study, collected from its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["MAJORITY", "MONO", "Scores", "scores_by_method"]

MONO, MAJORITY = "mono", "majority"

Scores: TypeAlias = dict[str, dict[Language, list[float]]]
"""Method → language → one score a seed."""

SeedScores: TypeAlias = dict[str, dict[Language, dict[int, float]]]
"""Method → language → seed → score."""


def scores_by_method(
    cells: Sequence[ComputedCell],
    measure: str,
    languages: Sequence[Language],
    *,
    pivot: Language | None = None,
) -> Scores:
    """Collect the scores of one measure, of the methods that have all languages and seeds.

    A monolingual method has one cell for each language. The most frequent label counts as a method,
    `majority`. With a pivot, the score of language l is that of the bilingual model of the pivot
    and l.

    Args:
        cells: The cells.
        measure: The name of the measure.
        languages: The languages of the study.
        pivot: The language of all pairs; `None` for the models of all languages.

    Returns:
        Method → language → one score a seed, in the order of the seeds.
    """
    collected: SeedScores = {}
    for cell in cells:
        if not _is_compared(cell, languages, pivot):
            continue

        # The most frequent label depends on the data alone: every cell of a seed has the same.
        seed, result = cell["settings"]["seed"], cell["result"]
        for method, scores in (
            (cell["settings"]["method"], result["scores"]),
            (MAJORITY, result["majority"]),
        ):
            _add(collected, method, seed, scores.get(measure, {}), pivot)

    # Without a model of several languages there is nothing to compare.
    if collected.keys() <= {MONO, MAJORITY}:
        return {}

    return _complete(collected, languages)


def _is_compared(cell: ComputedCell, languages: Sequence[Language], pivot: Language | None) -> bool:
    """Whether a cell belongs to the models of all languages or, with a pivot, to the pairs."""
    cell_languages = cell["settings"]["languages"]
    if cell["settings"]["method"] == MONO:
        return True

    if pivot is None:
        return set(cell_languages) == set(languages)

    # In a study of two languages, their only pair is the model of all languages.
    return pivot in cell_languages and len(cell_languages) == 2 < len(languages)


def _add(
    collected: SeedScores,
    method: str,
    seed: int,
    scores: Mapping[Language, float],
    pivot: Language | None,
) -> None:
    for language, score in scores.items():
        # The pivot is in every pair: it has no one score.
        if language != pivot:
            by_language = collected.setdefault(method, {})
            by_language.setdefault(language, {})[seed] = score


def _complete(collected: SeedScores, languages: Sequence[Language]) -> Scores:
    """Return the scores of the methods that have every language and every seed of any method.

    Paired differences need the same pairs of language and seed from both methods.
    """
    scored: set[Language] = set()
    seeds: set[int] = set()
    for by_language in collected.values():
        scored |= by_language.keys()
        for by_seed in by_language.values():
            seeds |= by_seed.keys()

    ordered_languages = [language for language in languages if language in scored]
    ordered_seeds = sorted(seeds)

    complete: Scores = {}
    for method, by_language in collected.items():
        if all(by_language.get(language, {}).keys() == seeds for language in ordered_languages):
            complete[method] = {
                language: [by_language[language][seed] for seed in ordered_seeds]
                for language in ordered_languages
            }

    return complete

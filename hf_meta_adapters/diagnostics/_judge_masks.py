"""Do languages need weights of their own, beyond what chance explains?"""

from __future__ import annotations

from math import comb

from hf_meta_adapters.diagnostics.finding import Finding
from hf_meta_adapters.diagnostics.overlap_matrix import OverlapMatrix

__all__ = ["judge_masks"]

_CHANCE = 0.05  # that as many languages stand out although masks do not depend on the language


def judge_masks(overlap: OverlapMatrix | None) -> Finding:
    """Return the languages whose own masks resemble each other more than any other language's.

    If masks did not depend on the language, the overlap of a language with itself would be the
    largest of its row with probability 1 / L. So k of L languages are beyond chance if
    P(K ≥ k) ≤ 0.05 for K ~ Binomial(L, 1 / L), as if rows were independent. That takes three
    languages at least.

    Args:
        overlap: The overlaps; `None` if masks were not learned.

    Returns:
        The finding.
    """
    if overlap is None:
        text = "The weights that each language needs were not compared."
        return Finding("masks", "not measured", text)

    if overlap.baseline is None:
        text = "There is one seed, so masks of languages cannot be compared with those of seeds."
        return Finding("masks", "unclear", text)

    numbers = (
        f"overlap {overlap.between_languages:.2f} between languages,"
        f" {overlap.between_seeds:.2f} between two runs on one language"
    )
    if overlap.between_languages >= overlap.between_seeds:
        text = f"Languages need the same weights, as far as can be seen ({numbers})."
        return Finding("masks", "not shown", text)

    apart = [
        language for index, language in enumerate(overlap.languages) if _stands_out(overlap, index)
    ]
    size = len(overlap.languages)
    if not _is_beyond_chance(len(apart), size):
        text = (
            f"Whether languages need weights of their own is unclear ({numbers}): {len(apart)} of"
            f" {size} languages resemble themselves most, and chance gives one."
        )
        return Finding("masks", "unclear", text)

    text = f"Languages need weights of their own ({numbers}): {', '.join(apart)}."
    return Finding("masks", "shown", text, languages=tuple(apart))


def _stands_out(overlap: OverlapMatrix, index: int) -> bool:
    """Whether the masks of a language resemble each other more than those of any other."""
    row = overlap.matrix[index].tolist()
    own = row.pop(index)
    return all(own > other for other in row)


def _is_beyond_chance(count: int, size: int) -> bool:
    """Whether P(K ≥ count) is small for K ~ Binomial(size, 1 / size)."""
    p = 1 / size
    terms = (comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(count, size + 1))
    return sum(terms) <= _CHANCE

"""The criterion of the study of little text: six comparisons that were fixed before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import compare_methods
from hf_meta_adapters.evaluation.holm import adjust_by_holm
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["EARLY", "FIXED", "Criterion", "arm_cells", "judge"]

FIXED, EARLY = "mlm", "mlm_early"
"""The score at the last step, and the score at the best step on selection text."""

LEVEL = 0.05

SeedCells: TypeAlias = dict[int, ComputedCell]
"""Seed → cell."""


class Criterion(TypedDict):
    """What must hold for the treatment to be worth something.

    Attributes:
        scenario: The scenario.
        rows: The numbers of rows of each language.
        treatment: The arm under test.
        baseline: The arm that it must beat.
        rivals: The arms the best of which it must beat.
        margin: How many bits per character count as being behind.
        seeds: How many seeds every arm must have.
    """

    scenario: str
    rows: list[int]
    treatment: str
    baseline: str
    rivals: list[str]
    margin: float
    seeds: int


def judge(criterion: Criterion, cells: Sequence[ComputedCell]) -> dict[str, Any]:
    """Test the comparisons of a criterion, paired over seeds and adjusted by Holm's procedure.

    Args:
        criterion: The criterion.
        cells: The cells that are done.

    Returns:
        `verdict` (`"holds"`, `"fails"`, or why it cannot be told yet) and `comparisons`, each with
        `name`, `rows`, the fields of `PairedDifference` and `holds`.
    """
    found: list[tuple[str, int, PairedDifference]] = []
    for rows in criterion["rows"]:
        arms = [criterion["treatment"], criterion["baseline"], *criterion["rivals"]]
        done = {arm: arm_cells(cells, criterion["scenario"], rows, arm) for arm in arms}
        seeds = set.intersection(*(set(by_seed) for by_seed in done.values()))
        if len(seeds) < criterion["seeds"]:
            return {
                "verdict": f"UNFINISHED: {len(seeds)} of {criterion['seeds']} seeds at {rows} rows",
                "comparisons": [],
            }

        several = {arm: [by_seed[seed] for seed in sorted(seeds)] for arm, by_seed in done.items()}
        for name, difference in _comparisons(criterion, several).items():
            found.append((name, rows, difference))

    # Holm's procedure counts the comparisons of all numbers of rows together.
    adjusted = adjust_by_holm([difference for _, _, difference in found])
    comparisons = []
    for (name, rows, _), difference in zip(found, adjusted, strict=True):
        holds = difference.mean > 0 and difference.p_value < LEVEL
        comparisons.append({"name": name, "rows": rows, **difference.to_dict(), "holds": holds})

    verdict = "fails"
    if all(comparison["holds"] for comparison in comparisons):
        verdict = "holds"
    return {"verdict": verdict, "comparisons": comparisons}


def arm_cells(
    cells: Sequence[ComputedCell], scenario: str, rows: int, arm: str
) -> dict[int, ComputedCell]:
    """Return the cells of one arm by seed.

    Args:
        cells: All cells.
        scenario: The scenario.
        rows: The number of rows of each language that has little text.
        arm: The arm.

    Returns:
        Seed → cell.
    """
    chosen: SeedCells = {}
    for cell in cells:
        settings = cell["settings"]
        # The languages with little text are the last ones. Trials have no test rows.
        place = (settings["scenario"], list(settings["rows"].values())[-1], settings["arm"])
        if place == (scenario, rows, arm) and settings["test_rows"]:
            chosen[settings["seed"]] = cell
    return chosen


def _comparisons(
    criterion: Criterion, several: Mapping[str, Sequence[ComputedCell]]
) -> dict[str, PairedDifference]:
    treatment, rivals = criterion["treatment"], criterion["rivals"]
    best = min(rivals, key=lambda arm: _selection(several[arm], FIXED))
    best_early = min(rivals, key=lambda arm: _selection(several[arm], EARLY))

    margin = criterion["margin"]
    return {
        "better than the baseline": _difference(
            several, FIXED, treatment, criterion["baseline"], 0.0
        ),
        "better than the best rival": _difference(several, FIXED, treatment, best, 0.0),
        "not behind with early stopping": _difference(
            several, EARLY, treatment, best_early, margin
        ),
    }


def _difference(
    several: Mapping[str, Sequence[ComputedCell]],
    measure: str,
    treatment: str,
    baseline: str,
    margin: float,
) -> PairedDifference:
    """Test how much better the treatment is than the baseline with `margin` bits more."""
    scores = {
        treatment: _scores(several[treatment], measure, 0.0),
        baseline: _scores(several[baseline], measure, margin),
    }
    comparison = compare_methods(scores, treatments=[treatment], higher_is_better=False)
    return comparison.differences[0]


def _scores(
    cells: Sequence[ComputedCell], measure: str, margin: float
) -> dict[Language, list[float]]:
    languages = cells[0]["result"]["scores"][measure]
    return {
        language: [cell["result"]["scores"][measure][language] + margin for cell in cells]
        for language in languages
    }


def _selection(cells: Sequence[ComputedCell], measure: str) -> float:
    """Return the mean over seeds of the score on selection text."""
    scores = []
    for cell in cells:
        by_step = list(cell["result"]["selection"].values())
        scores.append({FIXED: by_step[-1], EARLY: min(by_step)}[measure])
    return sum(scores) / len(scores)

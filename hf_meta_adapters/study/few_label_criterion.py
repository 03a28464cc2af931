"""The criterion of the study of few labels: comparisons that were fixed before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import compare_methods
from hf_meta_adapters.evaluation.holm import adjust_by_holm
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.study.few_label_arms import WITHOUT_LABELS
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["FewLabelCriterion", "few_label_cells", "judge_few_labels", "paired_difference"]

LEVEL = 0.05


class FewLabelCriterion(TypedDict):
    """What must hold for the meta-gradient to be worth something.

    Attributes:
        tasks: The tasks.
        shots: The numbers of labels of each target.
        treatments: The arms the best of which, on selection data, is under test.
        rivals: The arms the best of which, on selection data, it must beat.
        margin: A difference in the score that would matter to a user.
        seeds: How many seeds both arms must have.
    """

    tasks: list[str]
    shots: list[int]
    treatments: list[str]
    rivals: list[str]
    margin: float
    seeds: int


def judge_few_labels(
    criterion: FewLabelCriterion,
    chosen: Mapping[str, Mapping[str, str]],
    cells: Sequence[ComputedCell],
) -> dict[str, Any]:
    """Test the best treatment against the best rival, paired over seeds, adjusted by Holm.

    Args:
        criterion: The criterion.
        chosen: Task → `best_treatment` and `best_rival`, chosen on selection data.
        cells: The cells that are done.

    Returns:
        `verdict` and `comparisons`, each with `task`, `shots`, the fields of `PairedDifference`,
        `ahead` (the treatment is better, after Holm) and `below_margin` (its interval excludes a
        gain of `margin`). The verdict is `"ahead"` if one comparison is, else `"no gain of
        <margin>"` if all intervals exclude that, else `"open"`; or why it cannot be told yet.
    """
    found: list[tuple[str, int, PairedDifference]] = []
    for task in criterion["tasks"]:
        for shots in criterion["shots"]:
            arms = chosen.get(task, {"best_treatment": "", "best_rival": ""})
            several = [
                few_label_cells(cells, task, shots, arms[word])
                for word in ("best_treatment", "best_rival")
            ]
            seeds = set.intersection(*map(set, several))
            if len(seeds) < criterion["seeds"]:
                done = f"{len(seeds)} of {criterion['seeds']} seeds of {task}, {shots} labels"
                return {"verdict": f"UNFINISHED: {done}", "comparisons": []}

            difference = paired_difference(*several, names=tuple(arms.values()))
            found.append((task, shots, difference))

    # Holm's procedure counts the comparisons of all tasks and numbers of labels together.
    adjusted = adjust_by_holm([difference for _, _, difference in found])
    comparisons = []
    for (task, shots, _), one in zip(found, adjusted, strict=True):
        tested = {
            "ahead": one.mean > 0 and one.p_value < LEVEL,
            "below_margin": one.high < criterion["margin"],
        }
        comparisons.append({"task": task, "shots": shots, **one.to_dict(), **tested})

    verdict = "open"
    if any(one["ahead"] for one in comparisons):
        verdict = "ahead"
    elif all(one["below_margin"] for one in comparisons):
        verdict = f"no gain of {criterion['margin']}"
    return {"verdict": verdict, "comparisons": comparisons}


def few_label_cells(
    cells: Sequence[ComputedCell], task: str, shots: int, arm: str
) -> dict[int, ComputedCell]:
    """Return the cells of one arm by seed, without trials.

    Args:
        cells: All cells.
        task: The task.
        shots: The number of labels of each target.
        arm: The arm.

    Returns:
        Seed → cell.
    """
    if arm == WITHOUT_LABELS:
        shots = 0

    chosen: dict[int, ComputedCell] = {}
    for cell in cells:
        settings = cell["settings"]
        place = (settings["task"], settings["shots"], settings["arm"], settings["split"])
        if place == (task, shots, arm, "test"):
            chosen[settings["seed"]] = cell
    return chosen


def paired_difference(
    treatment: Mapping[int, ComputedCell],
    baseline: Mapping[int, ComputedCell],
    *,
    names: Sequence[str],
) -> PairedDifference:
    """Compute how much better one arm is in the mean over targets, over the seeds of both.

    Args:
        treatment: Seed → cell.
        baseline: Seed → cell.
        names: The names of the two arms.

    Returns:
        The difference, its p-value not adjusted.
    """
    seeds = sorted(treatment.keys() & baseline.keys())
    scores = {
        names[0]: _scores([treatment[seed] for seed in seeds]),
        names[1]: _scores([baseline[seed] for seed in seeds]),
    }
    return compare_methods(scores, treatments=[names[0]]).differences[0]


def _scores(cells: Sequence[ComputedCell]) -> dict[Language, list[float]]:
    """Target → one score per seed."""
    source = cells[0]["settings"]["source"]
    return {
        language: [cell["result"]["scores"][language] for cell in cells]
        for language in cells[0]["result"]["scores"]
        if language != source
    }

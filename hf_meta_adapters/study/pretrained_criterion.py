"""The criterion of the study of a pretrained model: comparisons that were fixed before the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import compare_methods
from hf_meta_adapters.evaluation.holm import adjust_by_holm
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.study.adapter_variants import TARGET
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["PretrainedCriterion", "SeedScores", "judge_pretrained", "seed_scores"]

LEVEL, POWER, MOST_SEEDS = 0.05, 0.8, 100_000

SeedScores = dict[int, dict[Language, float]]
"""Seed of pretraining → language → mean over its seeds of fine-tuning."""


class PretrainedCriterion(TypedDict):
    """What is compared.

    Attributes:
        task: The task, in zero-shot transfer with the target's φ.
        comparisons: Pairs of a treatment and a baseline.
        margin: A difference in the mean over targets that would matter to a user.
        seeds: How many seeds of pretraining every arm must have; all common ones count.
    """

    task: str
    comparisons: list[tuple[str, str]]
    margin: float
    seeds: int


def judge_pretrained(
    criterion: PretrainedCriterion,
    cells: Sequence[ComputedCell],
    low_resource: Sequence[Language] = (),
) -> dict[str, Any]:
    """Test all comparisons, paired over seeds of pretraining and adjusted by Holm's procedure.

    Seeds of fine-tuning are nested in those of pretraining and no unit of their own: their mean is
    the score of a seed of pretraining.

    Args:
        criterion: The criterion.
        cells: The cells that are done.
        low_resource: Targets that are compared on their own as well, without adjustment.

    Returns:
        `verdict` (`"complete"`, or how many seeds there are) and `comparisons`, each with the
        fields of `PairedDifference`; `found` (`"ahead"`, `"behind"`, `"within <margin>"` if the
        interval is, else `"open"`); `detectable`, the difference that a study of this size finds in
        four of five cases; `seeds` and `hours` (of a process), and those that an interval of
        ± margin would take: `seeds_for_margin` and `hours_for_margin`; and the difference on
        low-resource languages: `low_resource`, with `mean`, `low` and `high`.
    """
    arms = list(dict.fromkeys(arm for pair in criterion["comparisons"] for arm in pair))
    several = {arm: seed_scores(cells, criterion["task"], arm) for arm in arms}
    common = set.intersection(*(set(by_seed) for by_seed in several.values()))
    seeds = sorted(common)
    if len(seeds) < criterion["seeds"]:
        return {
            "verdict": f"UNFINISHED: {len(seeds)} of {criterion['seeds']} seeds",
            "comparisons": [],
        }

    source = cells[0]["settings"]["source"]
    targets = [key for key in several[arms[0]][seeds[0]] if key != source]
    poor = [key for key in targets if key in low_resource]

    pairs = criterion["comparisons"]
    differences = [_difference(several, pair, seeds, targets) for pair in pairs]
    comparisons = []
    for one in adjust_by_holm(differences):
        pair = (one.treatment, one.baseline)
        power = _power(one, len(seeds), criterion["margin"], tests=len(pairs))
        # Of one process: several on one GPU share its time.
        hours = sum(_seconds(cells, criterion["task"], arm, seeds) for arm in pair) / 3600
        comparisons.append(
            {
                **one.to_dict(),
                "found": _found(one, criterion["margin"]),
                **power,
                "hours": round(hours, 3),
                "hours_for_margin": round(hours * power["seeds_for_margin"] / len(seeds), 2),
                "low_resource": _ends(_difference(several, pair, seeds, poor)) if poor else {},
            }
        )
    return {"verdict": "complete", "comparisons": comparisons}


def seed_scores(
    cells: Sequence[ComputedCell], task: str, arm: str, variant: str = TARGET
) -> SeedScores:
    """Return the zero-shot scores of one arm on test data.

    Args:
        cells: The cells.
        task: The task.
        arm: The arm.
        variant: The variant of φ; an arm without parameters of a language has `"target"` alone.

    Returns:
        Seed → language → mean over seeds of fine-tuning.
    """
    chosen: SeedScores = {}
    for cell in cells:
        settings = cell["settings"]
        if (settings["arm"], settings["protocol"], settings["split"]) != (arm, "zero-shot", "test"):
            continue

        found = cell["result"]["scores"].get(task, {}).get(variant)
        if found:
            chosen[settings["seed"]] = {key: sum(own) / len(own) for key, own in found.items()}
    return chosen


def _difference(
    several: Mapping[str, SeedScores],
    pair: Sequence[str],
    seeds: Sequence[int],
    languages: Sequence[Language],
) -> PairedDifference:
    scores = {
        arm: {key: [several[arm][seed][key] for seed in seeds] for key in languages} for arm in pair
    }
    return compare_methods(scores, treatments=[pair[0]]).differences[0]


def _found(one: PairedDifference, margin: float) -> str:
    if one.p_value < LEVEL:
        return "ahead" if one.mean > 0 else "behind"
    if -margin < one.low and one.high < margin:
        return f"within {margin}"
    return "open"


def _power(one: PairedDifference, seeds: int, margin: float, *, tests: int) -> dict[str, Any]:
    """What this many seeds can find, and how many an interval of ± margin would take.

    The detectable difference is (t_{1 − α/2m} + t_{0.8}) s / √n, each t of n − 1 degrees of
    freedom, for the strictest of m tests by Holm's procedure.
    """
    from scipy.stats import t

    deviation = (one.high - one.low) / 2 / t.ppf(1 - LEVEL / 2, seeds - 1) * math.sqrt(seeds)
    quantiles = t.ppf(1 - LEVEL / 2 / tests, seeds - 1) + t.ppf(POWER, seeds - 1)

    needed = 2
    while needed < MOST_SEEDS:
        if t.ppf(1 - LEVEL / 2, needed - 1) * deviation / math.sqrt(needed) <= margin:
            break
        needed += 1
    return {
        "seeds": seeds,
        "half_width": round((one.high - one.low) / 2, 5),
        "detectable": round(float(quantiles * deviation / math.sqrt(seeds)), 5),
        "seeds_for_margin": needed,
    }


def _ends(one: PairedDifference) -> dict[str, float]:
    return {"mean": round(one.mean, 5), "low": round(one.low, 5), "high": round(one.high, 5)}


def _seconds(cells: Sequence[ComputedCell], task: str, arm: str, seeds: Sequence[int]) -> float:
    return sum(
        cell["seconds"]
        for cell in cells
        if cell["settings"]["arm"] == arm
        and cell["settings"]["seed"] in seeds
        and task in cell["settings"]["tasks"]
        and cell["settings"]["protocol"] == "zero-shot"
    )

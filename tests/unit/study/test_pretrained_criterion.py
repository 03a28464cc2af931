"""The comparisons of the study of a pretrained model: paired over seeds of pretraining."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_meta_adapters.study.pretrained_criterion import judge_pretrained, seed_scores

CRITERION: Any = {
    "task": "pos",
    "comparisons": [["joint", "none"], ["adapters", "joint"]],
    "margin": 0.02,
    "seeds": 4,
}


def cell(arm: str, seed: int, scores: dict[str, list[float]], **other: Any) -> Any:
    settings = {"arm": arm, "seed": seed, "protocol": "zero-shot", "split": "test", "source": "en"}
    return {
        "settings": {**settings, "tasks": {"pos": {}}, **other},
        "result": {"scores": {"pos": {"target": scores}}},
        "seconds": 90.0,
    }


def study(gains: dict[str, float], spread: float = 0.004, seeds: int = 5) -> list[Any]:
    """Each arm is better than `none` by its gain, up to noise, on each of two targets."""
    cells = []
    for arm, gain in gains.items():
        for seed in range(seeds):
            noise = spread * math.sin(7 * seed + 13 * len(arm))
            level = 0.6 + 0.03 * seed + gain + noise
            # Two seeds of fine-tuning, 0.02 apart: their mean counts.
            two = {"sw": [level - 0.11, level - 0.09], "hi": [level + 0.09, level + 0.11]}
            cells.append(cell(arm, seed, {"en": [9.0, 9.0], **two}))
        cells.append(cell(arm, 99, {"en": [0.0], "sw": [0.0]}, split="dev"))
        cells.append(cell(arm, 0, {"sw": [0.0]}, protocol="within-language"))
    return cells


@pytest.mark.parametrize(
    ("gain", "spread", "found"),
    [
        (0.05, 0.004, "ahead"),
        (-0.05, 0.004, "behind"),
        (0.0, 0.004, "within 0.02"),
        (0.0, 0.1, "open"),
    ],
)
def test_what_is_found_and_what_could_be(gain: float, spread: float, found: str) -> None:
    gains = {"none": 0.0, "joint": 0.05, "adapters": 0.05 + gain}
    judged = judge_pretrained(CRITERION, study(gains, spread), ["sw"])
    assert judged["verdict"] == "complete"
    one = judged["comparisons"][1]
    assert (one["treatment"], one["baseline"], one["found"]) == ("adapters", "joint", found)

    # From scipy, over the five seeds of pretraining.
    differences = [
        gain + spread * (math.sin(7 * seed + 13 * 8) - math.sin(7 * seed + 13 * 5))
        for seed in range(5)
    ]
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (one["low"], one["high"]) == pytest.approx(tuple(interval))
    assert one["seeds"] == 5
    assert one["half_width"] == pytest.approx((interval.high - interval.low) / 2, abs=1e-5)

    deviation = np.std(differences, ddof=1)
    quantiles = stats.t.ppf(1 - 0.05 / 4, 4) + stats.t.ppf(0.8, 4)
    assert one["detectable"] == pytest.approx(quantiles * deviation / math.sqrt(5), abs=1e-5)

    seeds = one["seeds_for_margin"]
    width = [
        stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count)
        for count in (seeds - 1, seeds)
        if count > 1
    ]
    assert width[-1] <= 0.02
    assert len(width) == 1 or width[0] > 0.02

    # Ten cells of 90 seconds took a quarter of an hour.
    assert one["hours"] == pytest.approx(0.25)
    assert one["hours_for_margin"] == pytest.approx(0.25 * seeds / 5, abs=0.01)
    assert one["low_resource"]["mean"] == pytest.approx(np.mean(differences), abs=1e-5)


def test_it_waits_for_its_seeds_and_counts_all_common_ones() -> None:
    gains = {"none": 0.0, "joint": 0.1, "adapters": 0.1}
    few = judge_pretrained(CRITERION, study(gains, seeds=3))
    assert few == {"verdict": "UNFINISHED: 3 of 4 seeds", "comparisons": []}
    assert judge_pretrained(CRITERION, [])["verdict"].startswith("UNFINISHED: 0 of 4")

    cells = [
        one
        for one in study(gains, seeds=6)
        if (one["settings"]["arm"], one["settings"]["seed"]) != ("adapters", 5)
    ]
    assert {one["seeds"] for one in judge_pretrained(CRITERION, cells)["comparisons"]} == {5}
    assert judge_pretrained(CRITERION, cells)["comparisons"][0]["low_resource"] == {}


def test_trials_and_other_protocols_do_not_count() -> None:
    scores = seed_scores(study({"joint": 0.0}, spread=0.0), "pos", "joint")
    assert list(scores) == [0, 1, 2, 3, 4]
    assert scores[1] == pytest.approx({"en": 9.0, "sw": 0.53, "hi": 0.73})
    assert seed_scores(study({"joint": 0.0}), "pos", "joint", "mean") == {}

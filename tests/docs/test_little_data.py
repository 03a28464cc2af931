"""The tables of the page about little data hold whatever the studies find, and before they do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from hf_meta_adapters.study.few_label_plan import FewLabelArguments
from hf_meta_adapters.study.few_label_report import few_label_report
from tests.docs import little_data
from tests.docs.pages import ROOT
from tests.recipes.test_few_label import CHOSEN, CRITERION, study


def record(*gains: float, spread: float = 0.003, seeds: int = 4) -> dict[str, Any]:
    """What a run of the study would write, of four seeds with these gains at 10 and 20 labels."""
    cells = study(*gains, spread=spread)
    cells = [cell for cell in cells if cell["settings"]["seed"] < seeds]
    args = FewLabelArguments(criterion=CRITERION, tasks={"pos": {"targets": ["sw", "hi"]}})
    report = few_label_report(args, CHOSEN, cells, missing=7)
    return {"cells": dict(enumerate(cells)), "chosen": CHOSEN, **report}


@pytest.mark.parametrize(
    ("gains", "spread", "says", "of_each"),
    [
        ((0.05, 0.0), 0.003, "yes: ahead in a comparison", ["ahead", "no gain of 0.01"]),
        (
            (0.0, -0.05),
            0.003,
            "no: a gain of 0.01 is excluded everywhere",
            ["no gain of 0.01"] * 2,
        ),
        ((0.0, 0.0), 0.03, "open: neither a gain nor its absence is shown", ["open"] * 2),
    ],
)
def test_every_verdict_of_few_labels_has_its_words(
    gains: tuple[float, float], spread: float, says: str, of_each: list[str]
) -> None:
    found = record(*gains, spread=spread)
    done = len(found["cells"])
    assert little_data.answer(found) == [says, f"{done} of {done + 7}"]

    lines = little_data.comparisons(found).splitlines()[2:]
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines] == of_each
    assert all(line.startswith("| pos | ") and "`next` | `two_stages`" in line for line in lines)


def test_a_study_that_is_not_finished_says_how_far_it_is() -> None:
    found = record(0.05, 0.05, seeds=3)
    assert little_data.answer(found)[0] == "not told yet: 3 of 4 seeds of pos, 10 labels"
    told = "Not to be told yet: 3 of 4 seeds of pos, 10 labels."
    assert little_data.comparisons(found) == told

    found["chosen"] = {}
    assert little_data.answer(found)[1].endswith("trials are missing")
    found["means"] = {}
    assert "No cell" in little_data.curves(found)
    assert little_data.costs(found) == "Not to be told yet."


def test_a_study_that_has_not_been_run_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(little_data, "RESULTS", tmp_path)
    for table in little_data.TABLES:
        assert "not run yet" in table() or table() == "The study has not been run yet."


def test_curves_have_a_row_for_each_number_of_labels() -> None:
    found = record(0.1, 0.0)
    rows = [line.strip("| ").split(" | ") for line in little_data.curves(found).splitlines()[2:]]
    assert [row[:3] for row in rows if row[1] == "`next`"] == [
        ["pos", "`next`", "10"],
        ["pos", "`next`", "20"],
    ]
    means = found["means"]["pos, 10 labels"]["next"]
    (ten,) = (row for row in rows if row[1:3] == ["`next`", "10"])
    assert ten[3:] == [
        f"{means['targets']:.3f}",
        f"{means['better']:+.3f} [{means['low']:+.3f}, {means['high']:+.3f}]",
        "4",
    ]
    costs = little_data.costs(found)
    assert "| `next` | 1.0× |" in costs  # all of these cells took two seconds


def test_intervals_of_little_text_are_those_of_t() -> None:
    gains = [0.02, 0.05, 0.03, 0.06]
    mean = sum(gains) / 4
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 3 / 4)
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert little_data.interval(mean, error, 4) == f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    values = {"seeds": 4, "mlm": 3.25, "mlm_better": mean, "mlm_error": error}
    assert little_data.of_text(values)[0::2] == ["3.250", "4"]
    assert little_data.of_text({"seeds": 1, "mlm": 3.25}) == ["3.250", "–", "1"]
    assert little_data.of_text(None) == ["–", "–", "0"]


@pytest.mark.parametrize(("verdict", "word"), [("holds", "yes"), ("fails", "not shown")])
def test_every_verdict_of_little_text_has_its_words(verdict: str, word: str) -> None:
    found = {"criterion": {"verdict": verdict}, "cells": {"a": 1}, "missing": 2}
    says, done = little_data.answer(found)
    assert says.startswith(f"{word}: ")
    assert done == "1 of 3"


def test_what_the_page_says_of_the_criteria_is_what_they_are() -> None:
    page = " ".join((ROOT / "docs/how-to/little_data.md").read_text(encoding="utf-8").split())
    for words in (
        "at 100 and at 300 rows",
        "best of five regularizers",
        "10, 20 and 50 labeled sentences",
    ):
        assert words in page
    configs = ROOT / "recipes" / "configs"
    text = (configs / "little_text_small.yaml").read_text(encoding="utf-8")
    assert "rows: [100, 300]" in text
    assert "rivals: [dropout, adapter_dropout, weight_decay, smaller, sharpness]" in text
    assert "shots: [10, 20, 50]" in (configs / "few_label_small.yaml").read_text(encoding="utf-8")


def page() -> str:
    return " ".join((ROOT / "docs/how-to/little_data.md").read_text(encoding="utf-8").split())


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def test_the_sentences_about_few_labels_have_the_numbers_of_the_run() -> None:
    found = little_data.record_of(little_data.FEW_LABELS)
    ten, twenty, fifty = found["criterion"]["comparisons"]
    points = [signed(100 * ten[key], 1) for key in ("mean", "low", "high")]
    assert f"{points[0]} points [{points[1]}, {points[2]}]" in page()
    points = [signed(100 * twenty[key], 1) for key in ("low", "high")]
    assert f"interval is [{points[0]}, {points[1]}] points" in page()
    behind = [f"{-100 * fifty[key]:.1f}" for key in ("mean", "high", "low")]
    assert f"by {behind[0]} points [{behind[1]}, {behind[2]}], p = .046" in page()
    assert round(fifty["p_value"], 3) == 0.046

    ranges = []
    for arm in (fifty["treatment"], fifty["baseline"]):
        scores = [found["cells"][f"pos-50-{arm}-{seed}"]["result"]["scores"] for seed in range(8)]
        means = [sum(v for key, v in of.items() if key != "en") / (len(of) - 1) for of in scores]
        ranges += [f"{min(means):.2f}", f"{max(means):.2f}"]
    low, high, low_of_two, high_of_two = ranges
    assert f"between {low} and {high}, those of two stages between {low_of_two}" in page()
    assert f"{low_of_two} and {high_of_two}." in page()

    ratios = []
    for one in (ten, twenty, fifty):
        means = found["means"][f"pos, {one['shots']} labels"]
        costs = [means[one[of]]["cpu_seconds"] for of in ("treatment", "baseline")]
        ratios.append(costs[0] / costs[1])
    assert f"{sum(ratios) / 3:.1f} times the processor time" in page()


def test_the_sentences_about_the_controls_have_the_numbers_of_the_run() -> None:
    found = little_data.record_of(little_data.LITTLE_TEXT)
    means = found["means"]["poor, 100 rows"]

    # As in the table: the numbers of an arm against adapters alone.
    _, harm, _ = little_data.of_text(means["random_1"])
    assert harm == "-0.011 [-0.017, -0.004]"
    assert "worse by 0.011 bits [0.004, 0.017]" in page()
    _, opposite, _ = little_data.of_text(means["flipped_1"])
    assert f"by {opposite.replace('+', '')}; the right sign" in page()

    scores = {}
    for arm in ("next_1", "flipped_1"):
        cells = [found["cells"][f"poor-100-{arm}-{seed}"] for seed in range(8)]
        values = [cell["result"]["scores"]["mlm"].values() for cell in cells]
        scores[arm] = [sum(of) / len(of) for of in values]
    pairs = [b - a for a, b in zip(scores["next_1"], scores["flipped_1"], strict=True)]
    interval = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    ahead = f"{sum(pairs) / 8:.3f} [{interval.low:.3f}, {interval.high:.3f}] ahead"
    assert f"the right sign is {ahead}" in page()

    right, flipped = (means[arm]["mlm_better"] for arm in ("next_1", "flipped_1"))
    assert f"Half of that difference, {(right - flipped) / 2:.3f}, depends on the sign" in page()
    assert f"half of the sum of both gains, {(right + flipped) / 2:.3f}, does not" in page()
    assert f"the smaller part of the gain of {right:.3f}" in page()

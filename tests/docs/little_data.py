"""The tables of the page *Little data*: what the two studies say, in words that follow from the
verdicts of their criteria, whatever these are, and however much of a study is done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from scipy import stats

from tests.docs.pages import ROOT

RESULTS = ROOT / "recipes" / "results"
LITTLE_TEXT, FEW_LABELS = "little_text_small", "few_label_small"

CONTROLS = ("random_1", "flipped_1")
"""The indirect part in a random direction, and with the opposite sign."""

Record = Mapping[str, Any]

ANSWERS = {
    "holds": "yes: all comparisons hold",
    "fails": "not shown: a comparison does not hold",
    "ahead": "yes: ahead in a comparison",
    "open": "open: neither a gain nor its absence is shown",
}
"""The verdict of a criterion → what it says."""

ARMS = ("source_only", "two_stages", "joint", "adapters", "projected", "next", "fast", "exact")
"""The arms of the table of scores, where there are cells of them."""


def record_of(name: str) -> Record | None:
    """The results file of a study; `None` where no run has written one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def little_data_verdicts() -> str:
    """Each study, its question, what its criterion says, and how much of it is done."""
    rows = [
        [
            "little text (`little_text_study`)",
            "Does the indirect part help beside regularizers, from scratch?",
            *answer(record_of(LITTLE_TEXT)),
        ],
        [
            "few labels (`few_label_study`)",
            "Do meta-learned φ beat two stages and joint training, on a pretrained encoder?",
            *answer(record_of(FEW_LABELS)),
        ],
    ]
    return table(["study", "question", "answer so far", "cells done"], rows)


def answer(record: Record | None) -> list[str]:
    """What the criterion of a study says, and how many of its cells are done."""
    if record is None:
        return ["not run yet", "none"]

    verdict = record["criterion"]["verdict"]
    if verdict.startswith("UNFINISHED: "):
        words = f"not told yet: {verdict.removeprefix('UNFINISHED: ')}"
    elif verdict.startswith("no gain of "):
        words = f"no: a gain of {verdict.removeprefix('no gain of ')} is excluded everywhere"
    else:
        words = ANSWERS[verdict]

    done = len(record["cells"])
    # How many cells follow the trials is known when these have chosen what to compare.
    if record.get("chosen") == {}:
        return [words, f"{done}, trials are missing"]
    return [words, f"{done} of {done + record['missing']}"]


def little_text_arms() -> str:
    """Bits per masked character of the arms at the criterion's numbers of rows."""
    return text_arms(record_of(LITTLE_TEXT))


def little_text_comparisons() -> str:
    """The comparisons of the criterion of little text, and which hold."""
    return text_comparisons(record_of(LITTLE_TEXT))


def text_comparisons(record: Record | None) -> str:
    if record is None:
        return "The study has not been run yet."

    criterion = record["criterion"]
    if not criterion.get("comparisons"):
        return f"Not to be told yet: {criterion['verdict'].removeprefix('UNFINISHED: ')}."

    rows = []
    for one in criterion["comparisons"]:
        gain = f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
        holds = "yes" if one["holds"] else "no"
        arms = f"`{one['treatment']}` and `{one['baseline']}`"
        rows.append([one["name"], str(one["rows"]), arms, gain, f"{one['p_value']:.2g}", holds])
    return table(["comparison", "rows", "of", "by", "p (Holm)", "holds"], rows)


def text_arms(record: Record | None) -> str:
    if record is None:
        return "The study has not been run yet."

    criterion = record["criterion"]
    places = [f"{criterion['scenario']}, {rows} rows" for rows in criterion["rows"]]
    named = [criterion["baseline"], criterion["treatment"], *criterion["rivals"]]
    named += [arm for arm in CONTROLS if any(arm in found for found in record["means"].values())]
    rows = []
    for arm in named:
        row = [f"`{arm}`"]
        for place in places:
            row += of_text(record["means"].get(place, {}).get(arm))
        rows.append(row)

    header = ["arm"]
    for place in places:
        header += [f"{place} ↓", "better by", "seeds"]
    return table(header, rows)


def of_text(values: Mapping[str, float] | None) -> list[str]:
    """The score of an arm, its gain over adapters with the 95 % interval, and its seeds."""
    if values is None:
        return ["–", "–", "0"]
    seeds = int(values["seeds"])
    gain = "–"
    if "mlm_better" in values:
        gain = interval(values["mlm_better"], values["mlm_error"], seeds)
    return [f"{values['mlm']:.3f}", gain, str(seeds)]


def interval(mean: float, error: float, seeds: int) -> str:
    """A mean of paired differences with the t interval, from its standard error."""
    reach = float(stats.t.ppf(0.975, seeds - 1)) * error
    return f"{mean:+.3f} [{mean - reach:+.3f}, {mean + reach:+.3f}]"


def few_label_comparisons() -> str:
    """The comparisons of the criterion of few labels, and what each says."""
    return comparisons(record_of(FEW_LABELS))


def comparisons(record: Record | None) -> str:
    if record is None:
        return "The study has not been run yet."

    criterion = record["criterion"]
    if not criterion["comparisons"]:
        return f"Not to be told yet: {criterion['verdict'].removeprefix('UNFINISHED: ')}."

    rows = []
    for one in criterion["comparisons"]:
        says = "open"
        if one["ahead"]:
            says = "ahead"
        elif one["below_margin"]:
            says = f"no gain of {criterion['margin']}"
        gain = f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
        arms = [f"`{one['treatment']}`", f"`{one['baseline']}`"]
        rows.append([one["task"], str(one["shots"]), *arms, gain, f"{one['p_value']:.3g}", says])
    return table(["task", "labels", "treatment", "against", "better by", "p (Holm)", "says"], rows)


def few_label_curves() -> str:
    """The mean score over targets by the number of labels, and the gain over adapters."""
    return curves(record_of(FEW_LABELS))


def curves(record: Record | None) -> str:
    if record is None:
        return "The study has not been run yet."

    places = {}
    for place, means in record["means"].items():
        task, _, labels = place.partition(", ")
        places.setdefault(task, {})[int(labels.split()[0])] = means

    rows = []
    for task, by_labels in places.items():
        for arm in ARMS:
            for labels, means in sorted(by_labels.items()):
                if arm in means:
                    rows.append([task, f"`{arm}`", str(labels), *of_labels(means[arm])])
    if not rows:
        return "No cell that sees test data is done yet."
    return table(["task", "arm", "labels", "targets ↑", "better by", "seeds"], rows)


def of_labels(values: Mapping[str, Any]) -> list[str]:
    gain = "–"
    if "better" in values:
        gain = f"{values['better']:+.3f} [{values['low']:+.3f}, {values['high']:+.3f}]"
    return [f"{values['targets']:.3f}", gain, str(values["seeds"])]


def few_label_cost() -> str:
    """Processor time of a cell of each arm, relative to joint training with adapters."""
    return costs(record_of(FEW_LABELS))


def costs(record: Record | None) -> str:
    if record is None:
        return "The study has not been run yet."

    rows = []
    for arm in ARMS:
        ratios = []
        for means in record["means"].values():
            if arm in means and means.get("adapters", {}).get("cpu_seconds"):
                ratios.append(means[arm]["cpu_seconds"] / means["adapters"]["cpu_seconds"])
        if ratios:
            # The mean over tasks and numbers of labels, of ratios.
            middle = math.exp(sum(math.log(max(ratio, 1e-3)) for ratio in ratios) / len(ratios))
            rows.append([f"`{arm}`", f"{middle:.1f}×"])
    if not rows:
        return "Not to be told yet."
    return table(["arm", "time of a cell, scores included"], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, [":---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = (
    little_data_verdicts,
    little_text_arms,
    little_text_comparisons,
    few_label_comparisons,
    few_label_curves,
    few_label_cost,
)

"""The report of the study of a pretrained model: verdict, power, scores and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from hf_meta_adapters.results.tables import format_interval, format_number, markdown_table
from hf_meta_adapters.study.adapter_variants import TARGET, VARIANTS
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.pretrained_criterion import (
    PretrainedCriterion,
    judge_pretrained,
    seed_scores,
)
from hf_meta_adapters.study.pretrained_plan import PretrainedArguments

__all__ = ["pretrained_markdown", "pretrained_report"]

ZERO_SHOT, WITHIN = "zero_shot", "within"


def pretrained_report(
    args: PretrainedArguments,
    cells: Sequence[ComputedCell],
    *,
    head: Mapping[str, float],
    missing: Sequence[str],
) -> dict[str, Any]:
    """Judge the criterion and take the means of all arms.

    Args:
        args: The settings of the study.
        cells: The cells of the plan that are done.
        head: The losses of the head, see `HeadRecord`.
        missing: The names of the cells that are not done yet.

    Returns:
        `missing`, `devices`, `head`, `criterion` (the settings and what came of them), `zero_shot`
        (task → arm → see `_zero_shot`), `within` (task → arm → `seeds` and `languages`),
        `pretraining` (arm → losses, meter and seconds) and `is_a_test`: whether every arm is above
        the majority label in all targets but one, on the criterion's task.
    """
    criterion: dict[str, Any] = {}
    if args.criterion:
        given = cast(PretrainedCriterion, args.criterion)
        judged = judge_pretrained(given, cells, args.low_resource)
        criterion = {**args.criterion, **judged}

    arms = list(dict.fromkeys(cell["settings"]["arm"] for cell in cells))
    zero: dict[str, Any] = {}
    within: dict[str, Any] = {}
    for task in args.tasks:
        for name, of_task in ((ZERO_SHOT, zero), (WITHIN, within)):
            mean = _zero_shot if name == ZERO_SHOT else _within
            found = {arm: mean(args, cells, task, arm) for arm in arms}
            of_task[task] = {arm: one for arm, one in found.items() if one}

    above = [one["above_majority"] for one in zero.get(criterion.get("task", ""), {}).values()]
    return {
        "missing": list(missing),
        "devices": sorted({cell["result"]["device"] for cell in cells}),
        "head": dict(head),
        "criterion": criterion,
        "is_a_test": bool(above) and min(above) >= len(args.targets) - 1,
        ZERO_SHOT: zero,
        WITHIN: within,
        "pretraining": {arm: _pretraining(cells, arm) for arm in arms},
    }


def pretrained_markdown(report: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        report: The return value of `pretrained_report`.

    Returns:
        The text.
    """
    head, criterion = report["head"], report["criterion"]
    parts = [
        "# A pretrained model, trained further",
        f"{len(report['missing'])} cells are not done yet.",
        f"Head: {head['after']} nats per masked word; single words: {head['single_words']}.",
        f"Every method above the majority label in all targets but one: {report['is_a_test']}.",
    ]
    if criterion:
        parts.append(f"Criterion: {criterion['verdict']}.")
        rows = [_comparison(one) for one in criterion["comparisons"]]
        header = ["treatment", "against", "better by", "p (Holm)", "found", "detectable", "seeds"]
        parts.append(markdown_table(header, rows))

    for task, arms in report[ZERO_SHOT].items():
        rows = []
        for arm, one in arms.items():
            variants = [_number(one["variants"].get(variant)) for variant in VARIANTS[1:]]
            scores = [_number(one[name]) for name in ("source", "targets", "low_resource")]
            rows.append([arm, str(one["seeds"]), *scores, *variants])
        header = ["arm", "seeds", "source", "targets", "low-resource"]
        header += [f"{variant} φ" for variant in VARIANTS[1:]]
        parts += [f"## {task}, zero-shot", markdown_table(header, rows)]

    parts.append("Means over seeds and languages; higher is better.")
    return "\n\n".join(parts)


def _zero_shot(
    args: PretrainedArguments, cells: Sequence[ComputedCell], task: str, arm: str
) -> dict[str, Any]:
    """The means of an arm over seeds.

    `seeds`; `source`, `targets` and `low_resource`; `languages`; `variants` of φ in the mean over
    targets; `majority`, and in how many targets the arm is above it.
    """
    by_seed = seed_scores(cells, task, arm)
    if not by_seed:
        return {}

    languages = _by_language(list(by_seed.values()))
    targets = [key for key in languages if key != args.source]
    variants = {}
    for variant in VARIANTS:
        found = _by_language(list(seed_scores(cells, task, arm, variant).values()))
        if found:
            variants[variant] = _mean([found[key] for key in targets])

    floor: Mapping[str, float] = {}
    for cell in cells:
        if cell["settings"]["protocol"] == "zero-shot":
            floor = cell["result"]["majority"].get(task, floor)
    low = [languages[key] for key in targets if key in args.low_resource]
    return {
        "seeds": len(by_seed),
        "source": languages[args.source],
        "targets": variants[TARGET],
        "low_resource": _mean(low) if low else None,
        "languages": languages,
        "variants": variants,
        "majority": dict(floor),
        "above_majority": sum(languages[key] > floor.get(key, 0.0) for key in targets),
    }


def _within(
    args: PretrainedArguments, cells: Sequence[ComputedCell], task: str, arm: str
) -> dict[str, Any]:
    del args
    found = []
    for cell in cells:
        settings = cell["settings"]
        place = (settings["arm"], settings["protocol"], settings["split"])
        if place == (arm, "within-language", "test") and task in cell["result"]["scores"]:
            scores = cell["result"]["scores"][task][TARGET]
            found.append({key: _mean(own) for key, own in scores.items()})
    return {"seeds": len(found), "languages": _by_language(found)} if found else {}


def _pretraining(cells: Sequence[ComputedCell], arm: str) -> dict[str, Any]:
    """Means over seeds of the loss at the end and of the meter, and the seconds of a run."""
    done = [cell for cell in cells if cell["settings"]["arm"] == arm]
    records = [cell["result"]["pretraining"] for cell in done]

    means: dict[str, Any] = {}
    for name in dict.fromkeys(key for record in records for key in record):
        values = [record[name] for record in records if record.get(name)]
        picked = [own[-1] if name == "loss" else sum(own) / len(own) for own in values]
        if picked:
            means[name] = _mean(picked)

    # A cell that found its model took none to train it.
    seconds = [cell["result"]["seconds"]["pretraining"] for cell in done]
    return {**means, "seconds": max(seconds)}


def _by_language(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not several:
        return {}
    return {key: _mean([one[key] for one in several]) for key in several[0]}


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)


def _number(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _comparison(one: Mapping[str, Any]) -> list[str]:
    return [
        one["treatment"],
        one["baseline"],
        format_interval(one["mean"], one["low"], one["high"], digits=4, sign=True),
        format_number(one["p_value"]),
        one["found"],
        format_number(one["detectable"], 4),
        str(one["seeds"]),
    ]

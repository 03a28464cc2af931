"""The report of the study of few labels: the criterion, and the means of every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters.results.tables import format_number, markdown_table
from hf_meta_adapters.study.few_label_criterion import (
    few_label_cells,
    judge_few_labels,
    paired_difference,
)
from hf_meta_adapters.study.few_label_plan import FewLabelArguments, mean_over_targets
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["few_label_means", "few_label_report", "few_labels_markdown"]

BASELINE = "adapters"


def few_label_report(
    args: FewLabelArguments,
    chosen: Mapping[str, Mapping[str, str]],
    cells: Sequence[ComputedCell],
    *,
    missing: int,
) -> dict[str, Any]:
    """Judge the criterion and take the means of all arms.

    Args:
        args: The settings of the study.
        chosen: Task → the best treatment and the best rival on selection data.
        cells: The cells that are done.
        missing: How many cells are not done yet.

    Returns:
        `missing`, `criterion` (the settings and what came of them) and `means`, see
        `few_label_means`.
    """
    judged: dict[str, Any] = {}
    if args.criterion:
        found = judge_few_labels(args.criterion, chosen, cells)  # type: ignore[arg-type]
        judged = {**args.criterion, **found}

    means: dict[str, Any] = {}
    for task in args.tasks:
        numbers = {cell["settings"]["shots"] for cell in cells if cell["settings"]["task"] == task}
        for shots in sorted(numbers - {0}):
            means[f"{task}, {shots} labels"] = few_label_means(cells, task, shots)
    return {"missing": missing, "criterion": judged, "means": means}


def few_label_means(
    cells: Sequence[ComputedCell], task: str, shots: int
) -> dict[str, dict[str, Any]]:
    """Compute the mean score of each arm, and by how much it is better than joint + adapters.

    Args:
        cells: The cells that are done.
        task: The task.
        shots: The number of labels of each target.

    Returns:
        Arm → `seeds`, `targets` and `source` (means over seeds), `cpu_seconds` of a cell, and with
        two seeds of both arms `better`, with the ends of its interval, `low` and `high`.
    """
    baseline = few_label_cells(cells, task, shots, BASELINE)
    arms = dict.fromkeys(cell["settings"]["arm"] for cell in cells)

    means: dict[str, dict[str, Any]] = {}
    for arm in arms:
        by_seed = few_label_cells(cells, task, shots, arm)
        if not by_seed:
            continue

        done = list(by_seed.values())
        source = [cell["result"]["scores"][cell["settings"]["source"]] for cell in done]
        means[arm] = {
            "seeds": len(done),
            "targets": _mean([mean_over_targets(cell) for cell in done]),
            "source": _mean(source),
            "cpu_seconds": round(_mean([cell["cpu_seconds"] for cell in done])),
        }
        if arm != BASELINE and len(by_seed.keys() & baseline.keys()) > 1:
            difference = paired_difference(by_seed, baseline, names=(arm, BASELINE))
            for name, value in {
                "better": difference.mean,
                "low": difference.low,
                "high": difference.high,
            }.items():
                means[arm][name] = round(value, 4)
    return means


def few_labels_markdown(report: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        report: The return value of `few_label_report`.

    Returns:
        The text.
    """
    parts = ["# Few labels", f"{report['missing']} cells are not done yet."]

    criterion = report["criterion"]
    if criterion:
        parts.append(f"Criterion: {criterion['verdict']}.")
    if criterion and criterion["comparisons"]:
        rows = []
        for one in criterion["comparisons"]:
            place = [one["task"], str(one["shots"]), one["treatment"], one["baseline"]]
            rows.append([*place, _interval(one, "mean"), format_number(one["p_value"])])
        header = ["task", "labels", "treatment", "against", "better by", "p (Holm)"]
        parts.append(markdown_table(header, rows))

    for place, means in report["means"].items():
        rows = []
        for arm, values in means.items():
            scores = [format_number(values[name]) for name in ("targets", "source")]
            gain = _interval(values, "better") if "better" in values else ""
            rows.append([arm, str(values["seeds"]), *scores, gain, str(values["cpu_seconds"])])
        header = ["arm", "seeds", "targets", "source", "better by", "CPU s"]
        parts += [f"## {place}", markdown_table(header, rows)]

    parts.append(
        "Means over seeds and languages; higher is better. *Better by*: than joint training with"
        " adapters, in the mean over targets, with the 95 % interval over common seeds."
    )
    return "\n\n".join(parts)


def _interval(values: Mapping[str, Any], name: str) -> str:
    low, high = format_number(values["low"], sign=True), format_number(values["high"], sign=True)
    return f"{values[name]:+.3f} [{low}, {high}]"


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)

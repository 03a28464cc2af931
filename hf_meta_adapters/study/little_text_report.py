"""The report of the study of little text: the criterion, and the means of every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters.results.tables import format_number, markdown_table
from hf_meta_adapters.study.criterion import EARLY, FIXED, arm_cells, judge
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.little_text_plan import LittleTextArguments

__all__ = ["arm_means", "little_text_report", "markdown_report"]

BASELINE = "adapters"


def little_text_report(
    args: LittleTextArguments, cells: Sequence[ComputedCell], *, missing: int
) -> dict[str, Any]:
    """Judge the criterion and take the means of all arms.

    Args:
        args: The settings of the study.
        cells: The cells that are done.
        missing: How many cells are not done yet.

    Returns:
        `missing`, `criterion` (the settings and what came of them) and `means`, see `arm_means`.
    """
    judged: dict[str, Any] = {}
    if args.criterion:
        judged = {**args.criterion, **judge(args.criterion, cells)}  # type: ignore[arg-type]

    means: dict[str, Any] = {}
    for block in args.plan.values():
        for rows in block["rows"]:
            place = f"{block['scenario']}, {rows} rows"
            found = arm_means(cells, block["scenario"], rows, block["arms"])
            means[place] = {**means.get(place, {}), **found}

    return {"missing": missing, "criterion": judged, "means": means}


def arm_means(
    cells: Sequence[ComputedCell], scenario: str, rows: int, arms: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compute mean bits per character, and by how much each arm is better than adapters.

    Args:
        cells: The cells that are done.
        scenario: The scenario.
        rows: The number of rows.
        arms: The arms.

    Returns:
        Arm → `seeds`, and for each of `mlm` and `mlm_early` the mean over languages and seeds, and
        `<measure>_better` with `<measure>_error`, the mean over common seeds of the difference to
        adapters and its standard error; arms without cells are absent.
    """
    baseline = arm_cells(cells, scenario, rows, BASELINE)
    means: dict[str, dict[str, float]] = {}
    for arm in arms:
        by_seed = arm_cells(cells, scenario, rows, arm)
        if not by_seed:
            continue

        means[arm] = {"seeds": len(by_seed)}
        for measure in (FIXED, EARLY):
            scores = {seed: _mean(cell, measure) for seed, cell in by_seed.items()}
            means[arm][measure] = round(sum(scores.values()) / len(scores), 4)

            gains = [
                _mean(baseline[seed], measure) - scores[seed] for seed in scores if seed in baseline
            ]
            if arm != BASELINE and len(gains) > 1:
                mean = sum(gains) / len(gains)
                variance = sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1)
                means[arm][f"{measure}_better"] = round(mean, 4)
                means[arm][f"{measure}_error"] = round(math.sqrt(variance / len(gains)), 4)
    return means


def markdown_report(report: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        report: The return value of `little_text_report`.

    Returns:
        The text.
    """
    parts = ["# Little text", f"{report['missing']} cells are not done yet."]

    criterion = report["criterion"]
    if criterion:
        parts.append(f"Criterion: {criterion['verdict']}.")
        rows = []
        for one in criterion["comparisons"]:
            numbers = [format_number(one["mean"], sign=True), format_number(one["p_value"])]
            rows.append(
                [one["name"], str(one["rows"]), one["baseline"], *numbers, str(one["holds"])]
            )
        if rows:
            header = ["comparison", "rows", "against", "better by", "p (Holm)", "holds"]
            parts.append(markdown_table(header, rows))

    for place, means in report["means"].items():
        rows = []
        for arm, values in means.items():
            cells = [str(values["seeds"])]
            for measure in (FIXED, EARLY):
                cells += [format_number(values[measure]), _gain(values, measure)]
            rows.append([arm, *cells])
        if rows:
            header = ["arm", "seeds", "last step", "better by", "early stopping", "better by"]
            parts += [f"## {place}", markdown_table(header, rows)]

    parts.append(
        "Bits per masked character of test text; less is better. *Better by*: than adapters, mean"
        " over common seeds ± standard error."
    )
    return "\n\n".join(parts)


def _gain(values: Mapping[str, float], measure: str) -> str:
    if f"{measure}_better" not in values:
        return ""
    return f"{values[f'{measure}_better']:+.3f} ± {values[f'{measure}_error']:.3f}"


def _mean(cell: ComputedCell, measure: str) -> float:
    """Return the mean over the languages of a cell."""
    scores = cell["result"]["scores"][measure]
    return float(sum(scores.values()) / len(scores))

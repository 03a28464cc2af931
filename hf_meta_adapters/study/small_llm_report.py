"""The report of the study of a small language model: the family, and what an addition costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import compare_methods
from hf_meta_adapters.evaluation.holm import adjust_by_holm
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.results.tables import format_interval, format_number, markdown_table
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.small_llm_plan import ARMS, SmallLlmArguments

__all__ = ["judge_small_llm", "small_llm_markdown", "small_llm_report"]

LEVEL = 0.05

FORGETTING, LEARNING = "forgetting", "learning"
"""By how many bits per character the watched language is worse than before the addition, and how
many the added language needs in the end.
"""

Cells = Mapping[str, ComputedCell]
"""Name → cell."""


def small_llm_report(args: SmallLlmArguments, cells: Cells, *, missing: int) -> dict[str, Any]:
    """Take the means of all arms, and judge the comparisons that were fixed before the runs.

    Args:
        args: The settings of the study.
        cells: The cells that are done.
        missing: How many cells are not done yet.

    Returns:
        `missing`; `family` (the result of its cell); `start` (arm → bits per character); `added`
        (arm → `seeds`, `watched` (step → mean bits per character), and the means of
        `forgetting`, `learning` and `scores`); `criterion` (the settings and what came of them).
    """
    starts = {arm: cells[f"start-{arm}"] for arm in ARMS if f"start-{arm}" in cells}
    added = {arm: _added(args, cells, arm) for arm in ARMS}
    return {
        "missing": missing,
        "family": cells["family"]["result"] if "family" in cells else {},
        "start": {arm: cell["result"]["scores"] for arm, cell in starts.items()},
        "added": {arm: one for arm, one in added.items() if one},
        "criterion": {**args.criterion, **judge_small_llm(args, cells)},
    }


def judge_small_llm(args: SmallLlmArguments, cells: Cells) -> dict[str, Any]:
    """Test the comparisons, paired over seeds, and adjusted by Holm's procedure.

    Args:
        args: The settings of the study. Its criterion has `comparisons`, each with a treatment, a
            baseline and a measure, `"forgetting"` or `"learning"`; of both, less is better.
        cells: The cells that are done.

    Returns:
        `verdict` (`"complete"`, or how many seeds are missing) and `compared`, each with `measure`,
        the fields of `PairedDifference` and `holds`.
    """
    seeds = [seed for seed in args.seeds if all(f"added-{arm}-{seed}" in cells for arm in ARMS)]
    if len(seeds) < len(args.seeds) or not seeds:
        verdict = f"UNFINISHED: {len(seeds)} of {len(args.seeds)} seeds"
        return {"verdict": verdict, "compared": []}

    found: list[tuple[str, PairedDifference]] = []
    for treatment, baseline, measure in args.criterion.get("comparisons", []):
        language = args.watched if measure == FORGETTING else args.added
        scores = {}
        for arm in (treatment, baseline):
            done = [cells[f"added-{arm}-{seed}"] for seed in seeds]
            scores[arm] = {language: [_measure(args, cell, measure) for cell in done]}

        comparison = compare_methods(scores, treatments=[treatment], higher_is_better=False)
        found.append((measure, comparison.differences[0]))

    compared = []
    adjusted = adjust_by_holm([difference for _, difference in found])
    for (measure, _), difference in zip(found, adjusted, strict=True):
        holds = difference.mean > 0 and difference.p_value < LEVEL
        compared.append({"measure": measure, **difference.to_dict(), "holds": holds})
    return {"verdict": "complete", "compared": compared}


def small_llm_markdown(report: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        report: The return value of `small_llm_report`.

    Returns:
        The text.
    """
    parts = ["# A small language model", f"{report['missing']} cells are not done yet."]
    family = report["family"]
    if family:
        exported = family.get("exported", {})
        rows = [
            [
                language,
                *(
                    format_number(several[language]) if language in several else ""
                    for several in (family["base"], score, exported.get("scores", {}))
                ),
            ]
            for language, score in ((key, family["scores"]) for key in family["scores"])
        ]
        header = ["language", "base model", "family", "exported"]
        parts += ["## The family", markdown_table(header, rows)]

    rows = []
    for arm, one in report["added"].items():
        path = ", ".join(f"{step}: {format_number(bits)}" for step, bits in one["watched"].items())
        means = [format_number(one[FORGETTING], sign=True), format_number(one[LEARNING])]
        rows.append([arm, str(one["seeds"]), path, *means])
    if rows:
        header = ["arm", "seeds", "watched language by step", "forgetting", "added language"]
        parts += ["## A language is added", markdown_table(header, rows)]

    rows = [
        [
            one["measure"],
            f"{one['treatment']} – {one['baseline']}",
            format_interval(one["mean"], one["low"], one["high"], sign=True),
            format_number(one["p_value"]),
            str(one["holds"]),
        ]
        for one in report["criterion"]["compared"]
        if one["p_value"] is not None
    ]
    parts.append(f"Criterion: {report['criterion']['verdict']}.")
    if rows:
        header = ["measure", "arms", "better by", "p (Holm)", "holds"]
        parts.append(markdown_table(header, rows))

    parts.append("Bits per character of test text; less is better.")
    return "\n\n".join(parts)


def _added(args: SmallLlmArguments, cells: Cells, arm: str) -> dict[str, Any]:
    """The means over seeds of an arm; nothing if it has no cell yet."""
    done = [cells[f"added-{arm}-{seed}"] for seed in args.seeds if f"added-{arm}-{seed}" in cells]
    if not done:
        return {}

    results = [cell["result"] for cell in done]
    watched, scores = results[0]["watched"], results[0]["scores"]
    return {
        "seeds": len(done),
        "watched": {step: _mean([one["watched"][step] for one in results]) for step in watched},
        "scores": {key: _mean([one["scores"][key] for one in results]) for key in scores},
        FORGETTING: _mean([_measure(args, cell, FORGETTING) for cell in done]),
        LEARNING: _mean([_measure(args, cell, LEARNING) for cell in done]),
    }


def _measure(args: SmallLlmArguments, cell: ComputedCell, measure: str) -> float:
    scores: dict[Language, float] = cell["result"]["scores"]
    if measure == LEARNING:
        return scores[args.added]
    return scores[args.watched] - float(cell["result"]["watched"]["0"])


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)

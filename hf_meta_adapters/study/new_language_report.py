"""The report of the study of new languages: learning curves, and the criterion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import compare_methods
from hf_meta_adapters.evaluation.holm import adjust_by_holm
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.results.tables import format_interval, format_number, markdown_table
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.new_language_plan import (
    STARTS,
    NewLanguageArguments,
    growth_name,
    taken_start,
)

__all__ = ["StartCriterion", "judge_starts", "new_language_markdown", "new_language_report"]

LEVEL = 0.05

Curves: TypeAlias = dict[str, dict[Language, dict[int, dict[str, float]]]]
"""Start → new language → seed → steps → bits per character."""


class StartCriterion(TypedDict):
    """What is compared.

    Attributes:
        baseline: The start that the others are compared with.
        starts: The others.
        steps: The steps of training after which they are compared.
        margin: A difference in bits per character that would matter to a user.
        seeds: How many seeds every start must have.
    """

    baseline: str
    starts: list[str]
    steps: list[int]
    margin: float
    seeds: int


def new_language_report(
    args: NewLanguageArguments,
    families: Mapping[str, ComputedCell],
    cells: Mapping[str, ComputedCell],
    *,
    head: Mapping[str, float],
    missing: Sequence[str],
) -> dict[str, Any]:
    """Judge the criterion and take the means of all curves.

    Args:
        args: The settings of the study.
        families: The cells of families that are done.
        cells: Those of languages that were added.
        head: The losses of the head.
        missing: The cells that are not done yet.

    Returns:
        `missing`, `head`, `criterion` (the settings and what came of them), `curves` (start → new
        language → `seeds`, and steps → mean bits per character), `taken` (`"nearest"` and
        `"gradient"` → new language → language → in how many seeds it was taken) and `agreement`
        (`nearest` and `gradient` → new language → language → mean over seeds).
    """
    curves = _curves(args, families, cells)
    judged: dict[str, Any] = {}
    if args.criterion:
        found = judge_starts(args.criterion, curves)  # type: ignore[arg-type]
        judged = {**args.criterion, **found}

    means: dict[str, Any] = {}
    for start, by_language in curves.items():
        means[start] = {}
        for language, by_seed in by_language.items():
            scores = {
                str(step): _mean([curve[str(step)] for curve in by_seed.values()])
                for step in args.steps
                if by_seed
            }
            means[start][language] = {"seeds": len(by_seed), **scores}

    taken: dict[str, Any] = {}
    agreement: dict[str, Any] = {}
    for start in ("nearest", "gradient"):
        taken[start], agreement[start] = {}, {}
        for language in args.new:
            counted = Counter(taken_start(start, language, cell) for cell in families.values())
            taken[start][language] = dict(counted.most_common())
            agreement[start][language] = {
                key: _mean([cell["result"][start][language][key] for cell in families.values()])
                for key in args.family
                if families
            }
    return {
        "missing": list(missing),
        "head": dict(head),
        "criterion": judged,
        "curves": means,
        "taken": taken,
        "agreement": agreement,
    }


def judge_starts(criterion: StartCriterion, curves: Curves) -> dict[str, Any]:
    """Test the starts against the baseline, paired over seeds and adjusted by Holm's procedure.

    The score of a seed is the mean over the new languages, since those of one family are not
    independent.

    Args:
        criterion: The criterion.
        curves: Start → new language → seed → steps → bits per character.

    Returns:
        `verdict` (`"complete"`, or how many seeds there are) and `comparisons`, each with `steps`,
        the fields of `PairedDifference` (positive where the start is better) and `found`:
        `"ahead"`, `"behind"`, `"within <margin>"` if the interval is, else `"open"`.
    """
    arms = [criterion["baseline"], *criterion["starts"]]
    several = [set(by_seed) for arm in arms for by_seed in curves.get(arm, {}).values()]
    seeds = sorted(set.intersection(*several)) if several else []
    if len(seeds) < criterion["seeds"]:
        done = f"{len(seeds)} of {criterion['seeds']} seeds"
        return {"verdict": f"UNFINISHED: {done}", "comparisons": []}

    found: list[tuple[int, PairedDifference]] = []
    for steps in criterion["steps"]:
        scores = {
            arm: {
                language: [by_seed[seed][str(steps)] for seed in seeds]
                for language, by_seed in curves[arm].items()
            }
            for arm in arms
        }
        for start in criterion["starts"]:
            pair = {name: scores[name] for name in (start, criterion["baseline"])}
            compared = compare_methods(pair, treatments=[start], higher_is_better=False)
            found.append((steps, compared.differences[0]))

    # Holm's procedure counts the comparisons at all steps together
    adjusted = adjust_by_holm([difference for _, difference in found])
    return {
        "verdict": "complete",
        "comparisons": [
            {"steps": steps, **one.to_dict(), "found": _found(one, criterion["margin"])}
            for (steps, _), one in zip(found, adjusted, strict=True)
        ],
    }


def new_language_markdown(report: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        report: The return value of `new_language_report`.

    Returns:
        The text.
    """
    parts = ["# New languages", f"{len(report['missing'])} cells are not done yet."]
    criterion = report["criterion"]
    if criterion:
        parts.append(f"Criterion: {criterion['verdict']}.")
    if criterion and criterion["comparisons"]:
        rows = [
            [
                *(str(one["steps"]), one["treatment"], one["baseline"]),
                format_interval(one["mean"], one["low"], one["high"], sign=True),
                *(format_number(one["p_value"]), one["found"]),
            ]
            for one in criterion["comparisons"]
        ]
        header = ["steps", "start", "against", "better by", "p (Holm)", "found"]
        parts.append(markdown_table(header, rows))

    rows = []
    for start, by_language in report["curves"].items():
        for language, curve in by_language.items():
            scores = [format_number(value) for key, value in curve.items() if key != "seeds"]
            rows.append([language, start, str(curve["seeds"]), *scores])
    done = [row for row in rows if row[2] != "0"]
    if done:
        steps = next(
            [key for key in curve if key != "seeds"]
            for by_language in report["curves"].values()
            for curve in by_language.values()
            if curve["seeds"]
        )
        header = ["language", "start", "seeds", *(f"{step} steps" for step in steps)]
        parts.append(markdown_table(header, sorted(done, key=lambda row: row[0])))
        parts.append("Bits per character of test text, means over seeds; lower is better.")

    for start, by_language in report["taken"].items():
        for language, counted in by_language.items():
            several = ", ".join(f"{key} ({count})" for key, count in counted.items())
            if several:
                parts.append(f"{start} of {language}: {several}")
    return "\n\n".join(parts)


def _curves(
    args: NewLanguageArguments,
    families: Mapping[str, ComputedCell],
    cells: Mapping[str, ComputedCell],
) -> Curves:
    curves: Curves = {start: {language: {} for language in args.new} for start in STARTS}
    for family in families.values():
        seed = family["settings"]["seed"]
        for start, by_language in curves.items():
            for language, by_seed in by_language.items():
                name = growth_name(language, taken_start(start, language, family), seed)
                if name in cells:
                    by_seed[seed] = cells[name]["result"]["scores"]
    return curves


def _found(one: PairedDifference, margin: float) -> str:
    if one.p_value < LEVEL:
        return "ahead" if one.mean > 0 else "behind"
    if -margin < one.low and one.high < margin:
        return f"within {margin}"
    return "open"


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)

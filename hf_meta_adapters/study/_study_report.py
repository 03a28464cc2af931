"""From the cells of a study to its report: which method is better, what joint training costs, and what each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection, interference_report
from hf_meta_adapters.evaluation import MethodComparison, compare_methods
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.results.tables import format_number, markdown_table

__all__ = ["ComputeTable", "scores_by_method", "study_report"]

Cell = Mapping[str, Any]
"""What a file of `run_grid` holds: `settings` (`method`, `languages`, `seed`), `result` and the times."""
Scores = dict[str, dict[Language, list[float]]]

MONO, PLAIN, MAJORITY, LOSS = "mono", "adapters", "majority", "mlm"


@dataclass(frozen=True)
class ComputeTable:
    """What each method took, on average over its cells.

    Attributes:
        rows: Method → `seconds` and `cpu_seconds` of pretraining, `examples`, `meta_examples`,
            `bytes` of parameters, and `indirect_ratio` (the mean of ‖indirect‖ / ‖direct‖ over
            training; NaN where there is no meta-gradient).
    """

    rows: Mapping[str, Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return the rows (NaN as `None`)."""
        return {
            name: {key: None if np.isnan(value) else value for key, value in row.items()}
            for name, row in self.rows.items()
        }

    def to_markdown(self) -> str:
        """Return a table."""
        header = [
            "method",
            "CPU seconds",
            "examples",
            "meta examples",
            "parameters",
            "indirect / direct",
        ]
        rows = [
            [
                name,
                f"{row['cpu_seconds']:,.0f}",
                f"{row['examples']:,.0f}",
                f"{row['meta_examples']:,.0f}",
                f"{row['bytes'] / 1e6:.2f} MB",
                format_number(row["indirect_ratio"]),
            ]
            for name, row in self.rows.items()
        ]
        return markdown_table(header, rows)


def scores_by_method(
    cells: Sequence[Cell],
    measure: str,
    languages: Sequence[Language],
    *,
    pivot: Language | None = None,
) -> Scores:
    """Collect the scores of one measure, seed by seed, of the methods that have all languages and seeds.

    A monolingual method has one cell for each language; the most frequent label is a method, too,
    `majority`. With a pivot, the score of language l is that of the bilingual model of the pivot
    and l.

    Args:
        cells: The cells.
        measure: Name of the measure.
        languages: The languages of the study.
        pivot: `None` for the models of all languages.

    Returns:
        Method → language → one score a seed, in the order of the seeds.
    """
    found: dict[str, dict[Language, dict[int, float]]] = {}
    for cell in cells:
        own, method = list(cell["settings"]["languages"]), cell["settings"]["method"]
        paired = pivot in own and len(own) == 2 < len(languages)
        if not (method == MONO or paired or (pivot is None and set(own) == set(languages))):
            continue
        for name, scores in (
            (method, cell["result"]["scores"]),
            (MAJORITY, cell["result"]["majority"]),
        ):
            for key, value in scores.get(measure, {}).items():
                if key != pivot:
                    found.setdefault(name, {}).setdefault(key, {})[cell["settings"]["seed"]] = value
    if set(found) <= {MONO, MAJORITY}:
        return {}
    seeds = sorted({seed for own in found.values() for values in own.values() for seed in values})
    keys = [key for key in languages if any(key in own for own in found.values())]
    return {
        method: {key: [own[key][seed] for seed in seeds] for key in keys}
        for method, own in found.items()
        if all(seed in own.get(key, {}) for key in keys for seed in seeds)
    }


def study_report(
    cells: Sequence[Cell],
    languages: Sequence[Language],
    *,
    treatments: Sequence[str],
    about: Mapping[str, Any],
    pivot: Language = "en",
    missing: int = 0,
) -> DiagnosticReport:
    """Compare the methods on every measure, over all languages and in pairs with the pivot.

    Args:
        cells: The cells that are done.
        languages: The languages of the study.
        treatments: The methods that are compared with all others, if they are there.
        about: What was done, for the record.
        pivot: The language of the bilingual models.
        missing: How many cells are not done yet.

    Returns:
        The report.
    """
    measures = list(dict.fromkeys(name for cell in cells for name in cell["result"]["scores"]))
    sections: dict[str, ReportSection] = {}
    findings: list[str] = [f"UNFINISHED: {missing} cells are not done yet."] if missing else []
    for where, key in (("all languages", None), (f"pairs with {pivot}", pivot)):
        for measure in measures:
            scores = scores_by_method(cells, measure, languages, pivot=key)
            if not scores:
                continue
            name = f"{measure}_{'all' if key is None else 'pairs'}"
            found = compare_methods(
                scores,
                treatments=[method for method in treatments if method in scores],
                metric=_metric(measure),
                higher_is_better=measure != LOSS,
            )
            text = f"{_metric(measure)}, {where}."
            sections[name] = ReportSection(
                f"{_metric(measure)}: {where}", text, found, {name: found.plot}
            )
            findings += _findings(found, where)
            sections |= _interference(scores, measure, name, where)
    sections["compute"] = ReportSection(
        "Compute", "Means over models of all languages.", _compute(cells, languages)
    )
    return DiagnosticReport("Interference and its treatments", tuple(findings), sections, about)


def _metric(measure: str) -> str:
    names = {LOSS: "bits per character", "ner": "NER F1", "pos": "POS accuracy"}
    task, _, protocol = measure.partition("_")
    return f"{names.get(task, task)} {protocol.replace('_', '-')}".strip()


def _interference(scores: Scores, measure: str, name: str, where: str) -> dict[str, ReportSection]:
    """What joint training costs each language, where both sides are there."""
    if MONO not in scores or "joint" not in scores:
        return {}
    report = interference_report(
        scores[MONO], scores["joint"], higher_is_better=measure != LOSS, metric=_metric(measure)
    )
    text = (
        f"What joint training costs, {where}: {_metric(measure)}. Intervals are of a bootstrap over"
        " seeds."
    )
    title = f"Interference, {_metric(measure)}: {where}"
    return {
        f"interference_{name}": ReportSection(
            title, text, report, {f"interference_{name}": report.plot}
        )
    }


def _findings(found: MethodComparison, where: str) -> list[str]:
    """A sentence for each treatment against plain adapters, and against the best of the other methods."""
    sign = 1 if found.higher_is_better else -1
    treatments = {difference.treatment for difference in found.differences}
    others = [name for name in found.means if name not in treatments and name != MONO]
    best = max(others, key=lambda name: sign * found.means[name][0], default="")
    return [
        f"{found.metric}, {where}: {one.treatment} against"
        f" {one.baseline}{', the best other' if one.baseline == best else ''}:"
        f" {_verdict(one, found.confidence)} ({one.mean:+.3f} [{format_number(one.low, sign=True)},"
        f" {format_number(one.high, sign=True)}], adjusted p = {format_number(one.p_value)},"
        f" {found.seeds} seeds)."
        for one in found.differences
        if one.baseline in {best, PLAIN}
    ]


def _verdict(difference: PairedDifference, confidence: float) -> str:
    if not difference.p_value < 1 - confidence:  # NaN with one seed
        return "not distinguishable"
    return "better" if difference.mean > 0 else "worse"


def _compute(cells: Sequence[Cell], languages: Sequence[Language]) -> ComputeTable:
    rows: dict[str, list[dict[str, float]]] = {}
    for cell in cells:
        if set(cell["settings"]["languages"]) == set(languages):
            result = cell["result"]
            ratios = result["meter"].get("meta_indirect_ratio", [])
            row = {name: float(result[name]) for name in ("seconds", "cpu_seconds", "bytes")}
            row |= {
                name: float(sum(result[name].values())) for name in ("examples", "meta_examples")
            }
            row["indirect_ratio"] = float(np.mean(ratios)) if ratios else float("nan")
            rows.setdefault(cell["settings"]["method"], []).append(row)
    return ComputeTable(
        {
            name: {key: float(np.mean([row[key] for row in several])) for key in several[0]}
            for name, several in rows.items()
        }
    )

"""The report of a study: which method is better, what joint training costs, and what each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection, interference_report
from hf_meta_adapters.evaluation import MethodComparison, compare_methods
from hf_meta_adapters.evaluation.method_comparison import PairedDifference
from hf_meta_adapters.results.tables import format_number
from hf_meta_adapters.study.compute_table import compute_table
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.method_scores import MONO, Scores, scores_by_method

__all__ = ["study_report"]

JOINT, PLAIN_ADAPTERS = "joint", "adapters"
LOSS = "mlm"
"""The measure of text, in bits per character: the only one of which less is better."""


def study_report(
    cells: Sequence[ComputedCell],
    languages: Sequence[Language],
    *,
    treatments: Sequence[str],
    about: Mapping[str, object],
    pivot: Language = "en",
    missing: int = 0,
) -> DiagnosticReport:
    """Compare the methods on every measure, over all languages and in pairs with the pivot.

    Args:
        cells: The cells that are done.
        languages: The languages of the study.
        treatments: The methods that are compared with all others, where they have been computed.
        about: What was done, for the record.
        pivot: The language of the bilingual models.
        missing: How many cells are not done yet.

    Returns:
        The report.
    """
    findings = []
    if missing:
        findings.append(f"UNFINISHED: {missing} cells are not done yet.")

    # In the order in which the cells have them, each once.
    measures: dict[str, None] = {}
    for cell in cells:
        measures |= dict.fromkeys(cell["result"]["scores"])

    sections: dict[str, ReportSection] = {}
    for suffix, where, pair_pivot in (
        ("all", "all languages", None),
        ("pairs", f"pairs with {pivot}", pivot),
    ):
        for measure in measures:
            scores = scores_by_method(cells, measure, languages, pivot=pair_pivot)
            if not scores:
                continue

            metric, name = _metric(measure), f"{measure}_{suffix}"
            comparison = compare_methods(
                scores,
                treatments=[method for method in treatments if method in scores],
                metric=metric,
                higher_is_better=measure != LOSS,
            )
            sections[name] = ReportSection(
                f"{metric}: {where}", f"{metric}, {where}.", comparison, {name: comparison.plot}
            )
            findings += _findings(comparison, where)

            if MONO in scores and JOINT in scores:
                sections[f"interference_{name}"] = _interference(scores, measure, name, where)

    sections["compute"] = ReportSection(
        "Compute", "Means over models of all languages.", compute_table(cells, languages)
    )
    return DiagnosticReport("Interference and its treatments", tuple(findings), sections, about)


def _metric(measure: str) -> str:
    """Return the words for a measure, such as "NER F1 zero-shot" for `ner_zero_shot`."""
    names = {LOSS: "bits per character", "ner": "NER F1", "pos": "POS accuracy"}
    task, _, protocol = measure.partition("_")
    return f"{names.get(task, task)} {protocol.replace('_', '-')}".strip()


def _interference(scores: Scores, measure: str, name: str, where: str) -> ReportSection:
    """What joint training costs each language."""
    metric = _metric(measure)
    report = interference_report(
        scores[MONO], scores[JOINT], higher_is_better=measure != LOSS, metric=metric
    )
    text = f"What joint training costs, {where}: {metric}. Intervals are of a bootstrap over seeds."

    picture = {f"interference_{name}": report.plot}
    return ReportSection(f"Interference, {metric}: {where}", text, report, picture)


def _findings(comparison: MethodComparison, where: str) -> list[str]:
    """Return a sentence for each treatment against plain adapters and the best other method."""
    treatments = {difference.treatment for difference in comparison.differences}

    # Monolingual models are no rival: a user wants one model of all languages.
    means = {
        method: mean
        for method, (mean, _, _) in comparison.means.items()
        if method not in treatments and method != MONO
    }
    best = ""
    if means and comparison.higher_is_better:
        best = max(means, key=lambda method: means[method])
    elif means:
        best = min(means, key=lambda method: means[method])

    return [
        _finding(comparison, difference, where, best)
        for difference in comparison.differences
        if difference.baseline in (best, PLAIN_ADAPTERS)
    ]


def _finding(
    comparison: MethodComparison, difference: PairedDifference, where: str, best: str
) -> str:
    baseline = difference.baseline
    if baseline == best:
        baseline += ", the best other"

    low, high = format_number(difference.low, sign=True), format_number(difference.high, sign=True)
    return (
        f"{comparison.metric}, {where}: {difference.treatment} against {baseline}:"
        f" {_verdict(difference, comparison.confidence)} ({difference.mean:+.3f} [{low}, {high}],"
        f" adjusted p = {format_number(difference.p_value)}, {comparison.seeds} seeds)."
    )


def _verdict(difference: PairedDifference, confidence: float) -> str:
    # `not p <`, because p is NaN with one seed.
    if not difference.p_value < 1 - confidence:
        return "not distinguishable"

    if difference.mean > 0:
        return "better"

    return "worse"

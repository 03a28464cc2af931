"""Which languages lose by joint training, beyond what chance explains?"""

from __future__ import annotations

from hf_meta_adapters.diagnostics._simultaneous import Estimate, simultaneous
from hf_meta_adapters.diagnostics.finding import Answer, Finding
from hf_meta_adapters.diagnostics.interference import Interference, InterferenceReport
from hf_meta_adapters.results.tables import format_number

__all__ = ["judge_interference"]


def judge_interference(report: InterferenceReport | None) -> Finding:
    """Return which languages lose: those whose interval lies above 0, widened for all rows.

    Args:
        report: The differences; `None` if they were not measured.

    Returns:
        The finding. Its `languages` are those that lose, or, if none does, none.
    """
    if report is None:
        return Finding(
            "interference",
            "not measured",
            "What joint training costs is not known. It takes a model of each language alone,"
            " trained on as many examples of it as this one, and scored on the same text.",
        )

    rows = [row for row in report.rows if row.has_interval]
    if not rows:
        return Finding(
            "interference",
            "unclear",
            "There is a single score for each language, so a loss cannot be told from chance. Score"
            " several seeds, or every example.",
        )

    wide = {row: _widened(row, report.confidence, len(rows)) for row in rows}
    lose = [row for row in rows if wide[row].is_above_zero]
    gain = [row for row in rows if wide[row].is_below_zero]
    open_rows = [row for row in rows if row not in lose and row not in gain]

    answer: Answer = "not shown"
    if lose:
        answer = "shown"

    sentences = [_named("Lost", lose, report.metric), _named("Gained", gain, report.metric)]
    if open_rows:
        most = max(wide[row].high for row in open_rows)
        names = ", ".join(_name(row) for row in open_rows)
        sentences.append(
            f"No difference can be seen for {names}: if there is a loss, it is"
            f" {format_number(most)} at most."
        )

    languages = tuple(dict.fromkeys(row.language for row in lose))
    return Finding("interference", answer, " ".join(filter(None, sentences)), languages)


def _widened(row: Interference, confidence: float, comparisons: int) -> Estimate:
    return simultaneous(Estimate(row.difference, row.low, row.high), confidence, comparisons)


def _named(verb: str, rows: list[Interference], metric: str) -> str:
    """Return what languages lost or gained, the largest change first."""
    if not rows:
        return ""

    rows = sorted(rows, key=lambda row: -abs(row.difference))
    changes = ", ".join(f"{_name(row)} {_change(row)}" for row in rows)
    return f"{verb} by joint training, in {metric}: {changes}."


def _change(row: Interference) -> str:
    """Return the size of a change, and its share of the score without joint training."""
    size = abs(row.difference)
    if row.monolingual == 0:
        return format_number(size)

    return f"{format_number(size)} ({size / abs(row.monolingual):.1%})"


def _name(row: Interference) -> str:
    if row.task is None:
        return row.language

    return f"{row.language} {row.task}"

"""The compute that each method of a study took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.tables import format_number, markdown_table
from hf_meta_adapters.study.grid import ComputedCell

__all__ = ["ComputeTable", "compute_table"]


@dataclass(frozen=True)
class ComputeTable:
    """The compute that each method took, on average over its cells.

    Attributes:
        rows: Method → `seconds` and `cpu_seconds` of pretraining, `examples`, `meta_examples`,
            `bytes` of parameters, and `indirect_ratio` (the mean of ‖indirect‖ / ‖direct‖ over
            training; NaN where there is no meta-gradient).
    """

    rows: Mapping[str, Mapping[str, float]]

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Return the rows (NaN as `None`)."""
        return {
            method: {name: _none_if_nan(value) for name, value in row.items()}
            for method, row in self.rows.items()
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
                method,
                f"{row['cpu_seconds']:,.0f}",
                f"{row['examples']:,.0f}",
                f"{row['meta_examples']:,.0f}",
                f"{row['bytes'] / 1e6:.2f} MB",
                format_number(row["indirect_ratio"]),
            ]
            for method, row in self.rows.items()
        ]
        return markdown_table(header, rows)


def compute_table(cells: Sequence[ComputedCell], languages: Sequence[Language]) -> ComputeTable:
    """Return the means over the models of all languages.

    Args:
        cells: The cells of a study.
        languages: The languages of the study.
    """
    rows_by_method: dict[str, list[dict[str, float]]] = {}
    for cell in cells:
        # Models of a pair or of one language are smaller and see less text.
        if set(cell["settings"]["languages"]) == set(languages):
            rows_by_method.setdefault(cell["settings"]["method"], []).append(_row(cell))

    return ComputeTable({method: _mean(rows) for method, rows in rows_by_method.items()})


def _row(cell: ComputedCell) -> dict[str, float]:
    result = cell["result"]
    row = {name: float(result[name]) for name in ("seconds", "cpu_seconds", "bytes")}

    # Summed over languages.
    for name in ("examples", "meta_examples"):
        row[name] = float(sum(result[name].values()))

    row["indirect_ratio"] = float("nan")
    ratios = result["meter"].get("meta_indirect_ratio", [])
    if ratios:
        row["indirect_ratio"] = float(np.mean(ratios))

    return row


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    mean = {}
    for name in rows[0]:
        mean[name] = float(np.mean([row[name] for row in rows]))

    return mean


def _none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    if np.isnan(value):
        return None

    return value

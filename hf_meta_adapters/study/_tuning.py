"""Choosing the settings of each method on selection text, with as many trials for one as for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["tune_methods"]

Cells = dict[str, dict[str, Any]]
MakeCells = Callable[[str, int, dict[str, Any], Mapping[str, Any]], Cells]


def tune_methods(
    trials: Mapping[str, Sequence[dict[str, Any]]],
    make_cells: MakeCells,
    compute: Callable[[Cells], Mapping[str, Any]],
) -> dict[str, Any]:
    """Find argmin over its trials of the mean bits per character, for each method.

    "joint" goes first: its sampling temperature is that of all other methods.

    Args:
        trials: Method → settings to try.
        make_cells: From a method, the number of a trial, its settings and the best settings so far
            to cells.
        compute: From cells to what `run_grid` returns.

    Returns:
        `best` (method → settings) and `trials` (method → a list of `trial`, `bits_per_character`
        and `cpu_seconds`).

    Raises:
        ConfigurationError: If methods have different numbers of trials.

    Example:
        >>> def make_cells(method, number, trial, best):
        ...     return {f"{method}{number}": trial}
        >>> def compute(cells):
        ...     score = {name: {"mlm": {"en": cell["learning_rate"]}} for name, cell in cells.items()}
        ...     return {name: {"result": {"scores": score[name]}, "cpu_seconds": 1.0} for name in cells}
        >>> found = tune_methods({"joint": [{"learning_rate": 2}, {"learning_rate": 1}]}, make_cells, compute)
        >>> found["best"]
        {'joint': {'learning_rate': 1}}
    """
    counts = {method: len(several) for method, several in trials.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ConfigurationError(
            f"Every method must have as many trials, at least one. Found {counts}. Correct `trials`"
            " in the settings."
        )
    best: dict[str, Any] = {}
    record: dict[str, list[dict[str, Any]]] = {}
    for methods in (
        [name for name in trials if name == "joint"],
        [name for name in trials if name != "joint"],
    ):
        cells = {
            (method, number): make_cells(method, number, trial, best)
            for method in methods
            for number, trial in enumerate(trials[method])
        }
        done = compute({name: cell for several in cells.values() for name, cell in several.items()})
        for method in methods:
            record[method] = [
                {"trial": trial, **_score([done[name] for name in cells[method, number]])}
                for number, trial in enumerate(trials[method])
            ]
            best[method] = min(record[method], key=lambda one: one["bits_per_character"])["trial"]
    return {"best": best, "trials": record}


def _score(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = [value for cell in cells for value in cell["result"]["scores"]["mlm"].values()]
    return {
        "bits_per_character": sum(values) / len(values),
        "cpu_seconds": round(sum(cell["cpu_seconds"] for cell in cells), 1),
    }

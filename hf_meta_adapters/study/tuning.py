"""Choosing the settings of each method on selection text, with equally many trials for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.grid import ComputedCell, Settings

__all__ = ["tune_methods"]

TrainingOptions: TypeAlias = dict[str, Any]
"""Arguments of `MetaAdapterTrainingArguments`."""

Cells: TypeAlias = Mapping[str, Settings]
MakeCells: TypeAlias = Callable[[str, int, TrainingOptions, Mapping[str, TrainingOptions]], Cells]
Compute: TypeAlias = Callable[[dict[str, Settings]], Mapping[str, ComputedCell]]


class Trial(TypedDict):
    """What was tried, and its score on selection text."""

    trial: TrainingOptions
    bits_per_character: float
    cpu_seconds: float


class Tuning(TypedDict):
    """The best settings of each method, and all trials."""

    best: dict[str, TrainingOptions]
    trials: dict[str, list[Trial]]


def tune_methods(
    trials: Mapping[str, Sequence[TrainingOptions]],
    make_cells: MakeCells,
    compute: Compute,
) -> Tuning:
    """Find argmin over its trials of the mean bits per character, for each method.

    "joint" goes first: its sampling temperature is that of all other methods.

    Args:
        trials: Method → settings to try.
        make_cells: From a method, the number of a trial, its settings and the best settings so far
            to cells.
        compute: From cells to the return value of `run_grid`.

    Returns:
        `best` (method → settings) and `trials` (method → a list of `trial`, `bits_per_character`
        and `cpu_seconds`).

    Raises:
        ConfigurationError: If methods have different numbers of trials.

    Example:
        >>> def make_cells(method, number, trial, best):
        ...     return {f"{method}{number}": trial}
        >>> def compute(cells):
        ...     scores = {name: {"mlm": {"en": cell["rate"]}} for name, cell in cells.items()}
        ...     return {n: {"result": {"scores": s}, "cpu_seconds": 1.0} for n, s in scores.items()}
        >>> tuning = tune_methods({"joint": [{"rate": 2}, {"rate": 1}]}, make_cells, compute)
        >>> tuning["best"]
        {'joint': {'rate': 1}}
    """
    # A method with more trials than another would win by luck.
    counts = {method: len(method_trials) for method, method_trials in trials.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ConfigurationError(
            f"Every method must have as many trials as the others, at least one. Found {counts}."
            " Correct `trials` in the settings."
        )

    # Two rounds, because the trials of all other methods build on the best one of joint training.
    tuning: Tuning = {"best": {}, "trials": {}}
    joint = {method: trials[method] for method in trials if method == "joint"}
    others = {method: trials[method] for method in trials if method != "joint"}
    for methods in (joint, others):
        for method, scored in _score_trials(methods, tuning["best"], make_cells, compute).items():
            tuning["trials"][method] = scored
            tuning["best"][method] = min(scored, key=_bits)["trial"]

    return tuning


def _score_trials(
    trials: Mapping[str, Sequence[TrainingOptions]],
    best: Mapping[str, TrainingOptions],
    make_cells: MakeCells,
    compute: Compute,
) -> dict[str, list[Trial]]:
    """Return the trials of some methods with their scores."""
    grid: dict[str, Settings] = {}
    names: dict[tuple[str, int], list[str]] = {}
    for method, method_trials in trials.items():
        for number, trial in enumerate(method_trials):
            cells = make_cells(method, number, trial, best)
            names[method, number] = list(cells)
            grid |= cells

    # In one grid, so that processes share the cells of all trials.
    computed = compute(grid)

    scored: dict[str, list[Trial]] = {method: [] for method in trials}
    for method, method_trials in trials.items():
        for number, trial in enumerate(method_trials):
            trial_cells = [computed[name] for name in names[method, number]]
            scored[method].append(_scored(trial, trial_cells))

    return scored


def _scored(trial: TrainingOptions, cells: Sequence[ComputedCell]) -> Trial:
    """Return a trial with the mean over its cells (seeds, or single languages) and languages."""
    bits: list[float] = []
    for cell in cells:
        bits += cell["result"]["scores"]["mlm"].values()

    return {
        "trial": trial,
        "bits_per_character": sum(bits) / len(bits),
        "cpu_seconds": round(sum(cell["cpu_seconds"] for cell in cells), 1),
    }


def _bits(trial: Trial) -> float:
    return trial["bits_per_character"]

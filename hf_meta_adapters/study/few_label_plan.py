"""The cells of the study of few labels: trials on selection data first, then the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.few_label_arms import WITHOUT_LABELS, few_label_options
from hf_meta_adapters.study.few_label_cell import FewLabelCell
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.resumable_study import ResumableStudyArguments

__all__ = [
    "FewLabelArguments",
    "best_of_trials",
    "chosen_arms",
    "few_label_plan",
    "labels_digest",
    "mean_over_targets",
    "selection_plan",
]

VERSION = 1
"""Raised by whoever changes what a cell computes: cells of another version are computed anew."""

LIBRARIES = ("torch", "transformers", "peft")
"""Cells that other versions of these computed do not count either."""

Cells: TypeAlias = dict[str, FewLabelCell]
"""Name → settings."""

Trials: TypeAlias = dict[str, dict[str, list[dict[str, Any]]]]
"""Task → arm → trials, each with `options` and `score`."""

Tuned: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""Task → arm → options."""


@dataclass
class FewLabelArguments(ResumableStudyArguments):
    """What is compared, on how many labels.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    output_dir: str = field(
        default="outputs/few_label", metadata={"help": "Folder for cells and report."}
    )

    # What is compared.
    plan: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Name → tasks, shots, arms, seeds, in this order (YAML only)."},
    )
    trials: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Arm → list of options (YAML only)."}
    )
    trial_block: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Tasks, targets, shots and seeds of trials (YAML only)."},
    )
    criterion: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `judge_few_labels` (YAML only)."}
    )
    estimated_hours: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Block → what it was expected to take on one core (YAML only)."},
    )

    # The data.
    data: str = field(
        default="", metadata={"help": "Folder with <task>/<language>/<split>.jsonl(.gz)."}
    )
    source: str = field(default="en", metadata={"help": "The language of the many labels."})
    tasks: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Task → its targets, and what else differs for it (YAML only)."},
    )
    source_rows: int = field(default=600, metadata={"help": "Labelled examples of the source."})
    selection_rows: int = field(default=60, metadata={"help": "Selection examples of a language."})
    test_rows: int = field(default=100, metadata={"help": "Test examples of a language."})

    # The model and its training.
    model: str = field(default="", metadata={"help": "Folder or name of the encoder."})
    sizes: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "In place of `model`: sizes of one with random weights (YAML only)."},
    )
    trained: str = field(
        default="all", metadata={"help": "θ: all, or a regular expression of parameter names."}
    )
    common: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of all arms (YAML only)."}
    )
    steps: int = field(default=40, metadata={"help": "Optimizer steps of every stage."})
    batch_size: int = field(default=4, metadata={"help": "Rows of each language in a step."})
    max_length: int = field(default=48, metadata={"help": "Tokens in a row."})


def selection_plan(args: FewLabelArguments, digests: Mapping[str, str]) -> Cells:
    """Return the cells that choose options and arms, on selection data of a few targets.

    Args:
        args: The settings of the study.
        digests: Task → digest of its data and the model.

    Returns:
        Name → settings.
    """
    cells: Cells = {}
    block = args.trial_block
    for task in block.get("tasks", []):
        languages = [args.source, *block["targets"]]
        for seed in block["seeds"]:
            for arm, trials in args.trials.items():
                for number, trial in enumerate(trials):
                    name = f"trial-{task}-{arm}-{number}-{seed}"
                    place = (task, block["shots"], seed)
                    cell = _cell(args, place, arm, {arm: trial}, languages, digests)
                    rows = _of_task(args, task)["selection_rows"]
                    cells[name] = {**cell, "split": "dev", "scored_rows": rows}
    return cells


def best_of_trials(
    args: FewLabelArguments, computed: Mapping[str, ComputedCell]
) -> tuple[Tuned, Trials]:
    """Return the options of each arm with the best mean on selection data.

    Args:
        args: The settings of the study.
        computed: The cells of `selection_plan`, computed.

    Returns:
        Task → arm → options, and task → arm → all trials with the mean score over seeds and
        targets.
    """
    best: Tuned = {}
    record: Trials = {}
    for task in args.trial_block.get("tasks", []):
        best[task], record[task] = {}, {}
        for arm, trials in args.trials.items():
            scored = []
            for number, trial in enumerate(trials):
                start = f"trial-{task}-{arm}-{number}-"
                means = [
                    mean_over_targets(cell)
                    for name, cell in computed.items()
                    if name.startswith(start)
                ]
                scored.append({"options": trial, "score": round(sum(means) / len(means), 6)})

            record[task][arm] = scored
            best[task][arm] = max(scored, key=lambda one: one["score"])["options"]
    return best, record


def chosen_arms(args: FewLabelArguments, trials: Trials) -> dict[str, dict[str, str]]:
    """Return the best treatment and the best rival of the criterion, by their trials.

    Args:
        args: The settings of the study.
        trials: The record of `best_of_trials`.

    Returns:
        Task → `"best_treatment"` and `"best_rival"` → arm.
    """
    chosen: dict[str, dict[str, str]] = {}
    for task, arms in trials.items():
        best = {arm: max(one["score"] for one in scored) for arm, scored in arms.items()}
        chosen[task] = {
            "best_treatment": max(args.criterion["treatments"], key=best.__getitem__),
            "best_rival": max(args.criterion["rivals"], key=best.__getitem__),
        }
    return chosen


def few_label_plan(
    args: FewLabelArguments,
    tuned: Tuned,
    chosen: Mapping[str, Mapping[str, str]],
    digests: Mapping[str, str],
) -> Cells:
    """Return the cells of the plan, block by block, and within a block seed by seed.

    A task without trials has the options and the arms that were chosen for the first one with some.

    Args:
        args: The settings of the study.
        tuned: Task → arm → options.
        chosen: Task → the arms that the words `best_treatment` and `best_rival` stand for.
        digests: Task → digest of its data and the model.

    Returns:
        Name → settings; a cell of several blocks has the place of the first.

    Raises:
        ConfigurationError: If no task has trials, or there is no such arm.
    """
    if not chosen:
        raise ConfigurationError(
            "Options and arms must be chosen on selection data first. Found no task in"
            " `trial_block`. Name for example `tasks: [pos]` there."
        )

    cells: Cells = {}
    for block in args.plan.values():
        for task, shots, arm, seed in _places(block):
            like = task if task in chosen else next(iter(chosen))
            name, plus, rate = arm.partition("+")
            arm = f"{chosen[like].get(name, name)}{plus}{rate}"

            # Without labels of the targets, one cell serves every number of them.
            if arm == WITHOUT_LABELS:
                shots = 0
            languages = [args.source, *args.tasks[task]["targets"]]
            key = f"{task}-{shots}-{arm}-{seed}"
            if key not in cells:
                place = (task, shots, seed)
                cells[key] = _cell(args, place, arm, tuned[like], languages, digests)
    return cells


def labels_digest(data: str, task: str, languages: Sequence[Language], model: str) -> str:
    """Return what tells the data of a task and a model from others: the start of a SHA-256.

    Args:
        data: The folder of all tasks.
        task: The task.
        languages: Its languages.
        model: The folder of the model, or its name.
    """
    digest = hashlib.sha256()
    for language in sorted(languages):
        for path in sorted((Path(data) / task / language).iterdir()):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())

    folder = Path(model)
    if not folder.is_dir():
        digest.update(model.encode())
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def mean_over_targets(cell: ComputedCell) -> float:
    """Return the mean score of a cell over its languages without the source."""
    source = cell["settings"]["source"]
    scores = [value for key, value in cell["result"]["scores"].items() if key != source]
    return float(sum(scores) / len(scores))


def _places(block: Mapping[str, Any]) -> list[tuple[str, int, str, int]]:
    """The cells of a block: all with the first seed, then all with the next one."""
    places = []
    for seed in block["seeds"]:
        for task in block["tasks"]:
            for shots in block["shots"]:
                places += [(task, shots, arm, seed) for arm in block["arms"]]
    return places


def _of_task(args: FewLabelArguments, task: str) -> dict[str, Any]:
    """The settings of a task: its own, and those of all tasks."""
    return {**vars(args), **args.tasks[task]}


def _cell(
    args: FewLabelArguments,
    place: tuple[str, int, int],
    arm: str,
    tuned: Mapping[str, Any],
    languages: Sequence[Language],
    digests: Mapping[str, str],
) -> FewLabelCell:
    task, shots, seed = place
    given = _of_task(args, task)
    return {
        "version": VERSION,
        "libraries": {library: version(library) for library in LIBRARIES},
        "digest": digests[task],
        "task": task,
        "source": args.source,
        "source_rows": given["source_rows"],
        "shots": shots,
        "languages": list(languages),
        "split": "test",
        "scored_rows": given["test_rows"],
        "arm": arm,
        "options": few_label_options(arm, given["common"], tuned),
        "trained": args.trained,
        "seed": seed,
        "steps": given["steps"],
        "batch_size": given["batch_size"],
        "max_length": given["max_length"],
    }

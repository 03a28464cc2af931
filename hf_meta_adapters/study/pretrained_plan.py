"""The cells of the study of a pretrained model: trials on selection data first, then the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.adapter_variants import TARGET
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.pretrained_arms import pretrained_options
from hf_meta_adapters.study.pretrained_cell import PretrainedCell
from hf_meta_adapters.study.resumable_study import ResumableStudyArguments

__all__ = [
    "PretrainedArguments",
    "best_options",
    "hours_by_block",
    "inputs_digest",
    "pretrained_plan",
    "pretrained_trials",
]

VERSION = 1
"""Raised by whoever changes what a cell computes: cells of another version are computed anew."""

LIBRARIES = ("torch", "transformers", "peft")
"""Cells that other versions of these computed do not count either."""

PROTOCOLS = ("zero-shot", "within-language")

FINETUNING_SEEDS = 100
"""Seeds of fine-tuning are nested: those of pretraining seed s start at 100 · s."""

_FILES = ("train.txt", "train.tsv", "train.jsonl", "dev.jsonl", "test.jsonl")

Cells: TypeAlias = dict[str, PretrainedCell]
"""Name → settings."""

Tuned: TypeAlias = dict[str, dict[str, Any]]
"""Arm → options."""


@dataclass
class PretrainedArguments(ResumableStudyArguments):
    """What is compared, and on what text and labels.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    output_dir: str = field(
        default="outputs/pretrained", metadata={"help": "Folder for cells, models and report."}
    )

    # What is compared.
    plan: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Name → tasks, arms, seeds and what else differs (YAML only)."},
    )
    trials: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Arm → list of options (YAML only)."}
    )
    trial_block: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Task, targets, seeds, steps and scored_rows of trials (YAML only)."},
    )
    criterion: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `judge_pretrained` (YAML only)."}
    )
    estimated_hours: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Block → what it was expected to take, in process hours (YAML only)."},
    )

    # The data.
    data: str = field(
        default="",
        metadata={"help": "Folder with text/, parallel/ and <task>/, each with <language>/."},
    )
    source: str = field(default="en", metadata={"help": "The language of the labels."})
    targets: list[str] = field(
        default_factory=list, metadata={"help": "The languages of zero-shot transfer (YAML only)."}
    )
    low_resource: list[str] = field(
        default_factory=list,
        metadata={"help": "Targets that are reported on their own (YAML only)."},
    )

    # The encoder, and its training on text.
    model: str = field(default="", metadata={"help": "Folder or name of the encoder."})
    sizes: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "In place of `model`: sizes of one with random weights (YAML only)."},
    )
    head: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "See `HeadTraining`, and `lines` of each language (YAML only)."},
    )
    pretraining: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `ContinuedPretraining` (YAML only)."}
    )
    common: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of all arms (YAML only)."}
    )

    # Fine-tuning.
    tasks: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Task → what differs from `labelled` (YAML only)."}
    )
    labelled: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "rows, steps, batch_size, learning_rate, max_length, scored_rows (YAML only)."
        },
    )
    finetuning: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Further arguments of fine-tuning (YAML only)."}
    )
    finetunings: int = field(
        default=1, metadata={"help": "Seeds of fine-tuning for each seed of pretraining."}
    )


def pretrained_trials(args: PretrainedArguments, digest: str) -> Cells:
    """Return the cells that choose the options of each arm, on selection data.

    Args:
        args: The settings of the study.
        digest: The digest of its inputs.

    Returns:
        Name → settings.
    """
    block = args.trial_block
    cells: Cells = {}
    for seed in block.get("seeds", []):
        for arm, trials in args.trials.items():
            for number, trial in enumerate(trials):
                place = {**block, "tasks": [block["task"]], "finetunings": 1, "split": "dev"}
                cell = _cell(args, place, arm, seed, {arm: trial}, digest)
                cells[f"trial-{arm}-{number}-{seed}"] = cell
    return cells


def best_options(
    args: PretrainedArguments, computed: Mapping[str, ComputedCell]
) -> tuple[Tuned, dict[str, list[dict[str, Any]]]]:
    """Return the options of each arm with the best mean over targets on selection data.

    Args:
        args: The settings of the study.
        computed: The cells of `pretrained_trials`, computed.

    Returns:
        Arm → options, and arm → all trials, each with `options` and `score`.
    """
    best: Tuned = {}
    record: dict[str, list[dict[str, Any]]] = {}
    for arm, trials in args.trials.items():
        record[arm] = []
        for number, trial in enumerate(trials):
            names = [f"trial-{arm}-{number}-{seed}" for seed in args.trial_block["seeds"]]
            means = [_mean_over_targets(args, computed[name]) for name in names]
            record[arm].append({"options": trial, "score": round(sum(means) / len(means), 6)})
        best[arm] = max(record[arm], key=lambda one: one["score"])["options"]
    return best, record


def pretrained_plan(args: PretrainedArguments, tuned: Tuned, digest: str) -> Cells:
    """Return the cells of the plan, block by block, and within a block seed by seed.

    Args:
        args: The settings of the study.
        tuned: Arm → options.
        digest: The digest of its inputs.

    Returns:
        Name → settings; a cell of several blocks has the place of the first.

    Raises:
        ConfigurationError: If a block has an unknown arm, task or protocol.
    """
    cells: Cells = {}
    for block in args.plan.values():
        for seed in block["seeds"]:
            for arm in block["arms"]:
                cell = _cell(args, {"split": "test", **block}, arm, seed, tuned, digest)
                cells.setdefault(_name(block, arm, seed), cell)
    return cells


def hours_by_block(
    args: PretrainedArguments, computed: Mapping[str, ComputedCell]
) -> dict[str, float]:
    """Return how long the trials and the cells of each block took, in hours of a process.

    Args:
        args: The settings of the study.
        computed: The cells that are done.

    Returns:
        Block → hours, to be compared with `estimated_hours`.
    """
    names = {"trials": [name for name in computed if name.startswith("trial-")]}
    for key, block in args.plan.items():
        names[key] = [_name(block, arm, seed) for seed in block["seeds"] for arm in block["arms"]]
    return {
        key: round(sum(computed[name]["seconds"] for name in own if name in computed) / 3600, 4)
        for key, own in names.items()
    }


def inputs_digest(args: PretrainedArguments, model: str) -> str:
    """Return what tells data, encoder and head from others: the start of a SHA-256.

    Args:
        args: The settings of the study.
        model: The folder of the encoder, or its name.
    """
    digest = hashlib.sha256(json.dumps(args.head, sort_keys=True).encode())
    for kind in ("text", "parallel", *sorted(args.tasks)):
        if kind == "parallel" and args.pretraining["objective"] != "translations":
            continue
        for language in sorted([args.source, *args.targets]):
            for name in _FILES:
                for path in sorted((Path(args.data) / kind / language).glob(f"{name}*")):
                    digest.update(f"{kind} {language} {name}".encode())
                    digest.update(path.read_bytes())

    folder = Path(model)
    if not folder.is_dir():
        digest.update(model.encode())
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _name(block: Mapping[str, Any], arm: str, seed: int) -> str:
    return f"{'+'.join(block['tasks'])}-{block.get('protocol', PROTOCOLS[0])}-{arm}-{seed}"


def _mean_over_targets(args: PretrainedArguments, cell: ComputedCell) -> float:
    settings = cell["settings"]
    by_language = cell["result"]["scores"][args.trial_block["task"]][TARGET]
    scores = [sum(own) / len(own) for key, own in by_language.items() if key != settings["source"]]
    return float(sum(scores) / len(scores))


def _cell(
    args: PretrainedArguments,
    block: Mapping[str, Any],
    arm: str,
    seed: int,
    tuned: Tuned,
    digest: str,
) -> PretrainedCell:
    protocol = block.get("protocol", PROTOCOLS[0])
    unknown = [name for name in block["tasks"] if name not in args.tasks]
    if unknown or protocol not in PROTOCOLS:
        raise ConfigurationError(
            f"A block of the plan must have tasks of {list(args.tasks)}, and a protocol of"
            f" {list(PROTOCOLS)}. Found {unknown or protocol!r}."
        )

    pretraining = dict(args.pretraining)
    tasks = {name: {**args.labelled, **args.tasks[name]} for name in block["tasks"]}
    if "steps" in block:
        pretraining["steps"] = block["steps"]
    if "scored_rows" in block:
        tasks = {name: {**one, "scored_rows": block["scored_rows"]} for name, one in tasks.items()}

    count = block.get("finetunings", args.finetunings)
    return {
        "version": VERSION,
        "libraries": {library: version(library) for library in LIBRARIES},
        "digest": digest,
        "languages": [args.source, *args.targets],
        "arm": arm,
        "options": pretrained_options(arm, args.common, tuned),
        "pretraining": pretraining,
        "seed": seed,
        "protocol": protocol,
        "source": args.source,
        "targets": block.get("targets", args.targets),
        "tasks": tasks,
        "finetuning": args.finetuning,
        "finetuning_seeds": [FINETUNING_SEEDS * seed + number for number in range(count)],
        "split": block["split"],
    }

"""The cells of the study of little text: trials of the regularizers first, then the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.little_text_arms import arm_options
from hf_meta_adapters.study.little_text_cell import LittleTextCell
from hf_meta_adapters.study.resumable_study import ResumableStudyArguments

__all__ = ["LittleTextArguments", "best_trials", "study_plan", "text_digest", "trial_plan"]

VERSION = 1
"""Raised by whoever changes what a cell computes: cells of another version are computed anew."""

LIBRARIES = ("torch", "transformers", "peft")
"""Cells that other versions of these computed do not count either."""

Cells: TypeAlias = dict[str, LittleTextCell]
"""Name → settings."""

Tuned: TypeAlias = dict[str, dict[str, Any]]
"""Regularizer → its options."""


class Scenario(TypedDict, total=False):
    """Which languages have little text, and which have `rich_rows`."""

    data: str
    poor: list[Language]
    rich: list[Language]
    rich_rows: int


class Block(TypedDict):
    """Some arms on some numbers of rows, with some seeds."""

    scenario: str
    rows: list[int]
    arms: list[str]
    seeds: list[int]


@dataclass
class LittleTextArguments(ResumableStudyArguments):
    """What is compared, on how much text.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    output_dir: str = field(
        default="outputs/little_text", metadata={"help": "Folder for cells and report."}
    )

    # What is compared.
    scenarios: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Name → data, poor, rich, rich_rows (YAML only)."}
    )
    plan: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Name → scenario, rows, arms, seeds, in this order (YAML only)."},
    )
    trials: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Regularizer → list of options (YAML only)."}
    )
    trial_block: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Scenario, rows and seeds of trials (YAML only)."}
    )
    criterion: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `judge` (YAML only)."}
    )
    estimated_hours: float = field(
        default=0.0, metadata={"help": "What all cells were expected to take on one core."}
    )

    # The text, the model, and its training.
    vocabulary: int = field(default=2500, metadata={"help": "Vocabulary size of the tokenizer."})
    max_length: int = field(default=64, metadata={"help": "Tokens in a row."})
    selection_rows: int = field(default=100, metadata={"help": "Selection rows of a language."})
    test_rows: int = field(default=300, metadata={"help": "Test rows of a language."})
    model_type: str = field(
        default="xlm-roberta",
        metadata={"help": "The architecture, by its name in transformers.AutoConfig."},
    )
    common: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "sizes, adapter and training of all arms (YAML only)."},
    )
    mlm_probability: float = field(
        default=0.3, metadata={"help": "Share of the tokens that are to be predicted."}
    )
    steps: int = field(default=300, metadata={"help": "Optimizer steps of every model."})
    evaluate_every: int = field(default=20, metadata={"help": "Steps between selection scores."})


def trial_plan(args: LittleTextArguments, digests: Mapping[str, str]) -> Cells:
    """Return the cells that choose the strength of each regularizer, without test text.

    Args:
        args: The settings of the study.
        digests: Scenario → digest of its text.

    Returns:
        Name → settings.
    """
    cells: Cells = {}
    for seed in args.trial_block.get("seeds", []):
        for rows in args.trial_block["rows"]:
            for arm, trials in args.trials.items():
                for number, trial in enumerate(trials):
                    name = f"trial-{arm}-{number}-{rows}-{seed}"
                    where = {"scenario": args.trial_block["scenario"], "rows": rows, "seed": seed}
                    cells[name] = _cell(args, arm, where, {arm: trial}, digests, test_rows=0)
    return cells


def best_trials(
    args: LittleTextArguments, computed: Mapping[str, ComputedCell]
) -> tuple[Tuned, dict[str, list[dict[str, Any]]]]:
    """Return the options of each regularizer with the least mean on selection text.

    Args:
        args: The settings of the study.
        computed: The cells of `trial_plan`, computed.

    Returns:
        Regularizer → options, and regularizer → all trials with the mean bits per character at the
        last step over seeds and numbers of rows.
    """
    best: Tuned = {}
    record: dict[str, list[dict[str, Any]]] = {}
    for arm, trials in args.trials.items():
        record[arm] = []
        for number, trial in enumerate(trials):
            scores = [
                list(cell["result"]["selection"].values())[-1]
                for name, cell in computed.items()
                if name.startswith(f"trial-{arm}-{number}-")
            ]
            mean = round(sum(scores) / len(scores), 6)
            record[arm].append({"options": trial, "bits_per_character": mean})

        best[arm] = min(record[arm], key=lambda scored: scored["bits_per_character"])["options"]
    return best, record


def study_plan(args: LittleTextArguments, tuned: Tuned, digests: Mapping[str, str]) -> Cells:
    """Return the cells of the plan, block by block, and within a block seed by seed.

    Args:
        args: The settings of the study.
        tuned: The options of each regularizer.
        digests: Scenario → digest of its text.

    Returns:
        Name → settings; a cell of several blocks has the place of the first.
    """
    cells: Cells = {}
    for block in args.plan.values():
        for where, arm in _places(block):
            name = f"{where['scenario']}-{where['rows']}-{arm}-{where['seed']}"
            if name not in cells:
                cells[name] = _cell(args, arm, where, tuned, digests, test_rows=args.test_rows)
    return cells


@cache
def text_digest(data: str, languages: tuple[Language, ...], tokenizer: str) -> str:
    """Return what tells text and tokenizer of a scenario from others: the start of a SHA-256.

    Args:
        data: The folder of the text.
        languages: The languages.
        tokenizer: The folder of the tokenizer.
    """
    digest = hashlib.sha256((Path(tokenizer) / "tokenizer.json").read_bytes())
    for split in ("train", "valid", "test"):
        for language, lines in read_texts(data, split, languages).items():
            digest.update("\n".join([split, language, *lines]).encode())
    return digest.hexdigest()[:16]


def languages_of(scenario: Scenario) -> tuple[Language, ...]:
    """Return the languages of a scenario, the rich ones first."""
    return (*scenario.get("rich", []), *scenario["poor"])


def _places(block: Block) -> Iterator[tuple[dict[str, Any], str]]:
    for seed in block["seeds"]:
        for rows in block["rows"]:
            for arm in block["arms"]:
                yield {"scenario": block["scenario"], "rows": rows, "seed": seed}, arm


def _cell(
    args: LittleTextArguments,
    arm: str,
    where: Mapping[str, Any],
    tuned: Tuned,
    digests: Mapping[str, str],
    *,
    test_rows: int,
) -> LittleTextCell:
    scenario: Scenario = args.scenarios[where["scenario"]]
    rows = dict.fromkeys(scenario.get("rich", []), scenario.get("rich_rows", 0))
    rows |= dict.fromkeys(scenario["poor"], where["rows"])

    return {
        "version": VERSION,
        "libraries": {library: version(library) for library in LIBRARIES},
        "text": digests[where["scenario"]],
        "data": scenario["data"],
        "scenario": where["scenario"],
        "rows": rows,
        "selection_rows": args.selection_rows,
        "test_rows": test_rows,
        "arm": arm,
        "options": arm_options(arm, args.common, tuned),
        "model_type": args.model_type,
        "mlm_probability": args.mlm_probability,
        "seed": where["seed"],
        "steps": args.steps,
        "evaluate_every": args.evaluate_every,
    }

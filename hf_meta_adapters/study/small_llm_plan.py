"""The cells of the study of a small language model: a family, and a language that is added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.resumable_study import ResumableStudyArguments

__all__ = ["ARMS", "ONE", "SmallLlmArguments", "SmallLlmCell", "small_llm_plan", "text_and_model"]

VERSION = 1
"""Raised by whoever changes what a cell computes: cells of another version are computed anew."""

LIBRARIES = ("torch", "transformers", "peft")
"""Cells that other versions of these computed do not count either."""

ONE, BOTH, OWN = "one", "both", "own"

ARMS = (ONE, BOTH, OWN)
"""What a new language trains: the one LoRA of all languages, which have none of their own; the
shared LoRA and a LoRA of its own; or that of its own alone.
"""

START_SEED = 0
"""Of the family, and of the two models that a language is added to: all seeds of an addition start
from the same ones.
"""


class SmallLlmCell(TypedDict):
    """Everything that determines the scores of a cell."""

    # What the same settings may mean something else under.
    version: int
    libraries: dict[str, str]
    digest: str

    # `part` is "family", "start" or "added". `languages` are trained together for `steps`; to them
    # `added` is added, and trained for `added_steps`.
    part: str
    arm: str
    languages: list[Language]
    steps: int
    added: Language
    added_steps: int
    watched: Language
    watched_at: list[int]
    seed: int

    # The ranks of the two LoRAs, the rows, and the training.
    shared_rank: int
    adapter_rank: int
    max_length: int
    test_rows: int
    training: dict[str, Any]


Cells: TypeAlias = dict[str, SmallLlmCell]
"""Name → settings."""


@dataclass
class SmallLlmArguments(ResumableStudyArguments):
    """The model, the text, and what is trained on it.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    output_dir: str = field(
        default="outputs/small_llm_family",
        metadata={"help": "Folder for cells, models, exported adapters and report."},
    )

    # The model and the text.
    model: str = field(default="", metadata={"help": "Folder or name of a causal language model."})
    sizes: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "In place of `model`: sizes of one with random weights (YAML only)."},
    )
    data: str = field(
        default="verses", metadata={"help": "Folder with <language>/{train,test}.txt(.gz)."}
    )

    # The family, and the addition.
    family: list[str] = field(
        default_factory=list, metadata={"help": "The languages of the family."}
    )
    start: list[str] = field(
        default_factory=list, metadata={"help": "The languages before one is added."}
    )
    added: str = field(default="", metadata={"help": "The language that is added to these."})
    watched: str = field(
        default="en", metadata={"help": "The language whose forgetting is measured."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Of the addition: rows and start."}
    )
    criterion: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `judge_small_llm` (YAML only)."}
    )
    estimated_minutes: float = field(
        default=0.0, metadata={"help": "What all cells were expected to take on one core."}
    )

    # The training.
    shared_rank: int = field(default=16, metadata={"help": "Rank of the LoRA of all languages."})
    adapter_rank: int = field(default=8, metadata={"help": "Rank of the LoRA of each language."})
    max_length: int = field(default=64, metadata={"help": "Tokens in a row."})
    test_rows: int = field(default=64, metadata={"help": "Lines of test text of a language."})
    family_steps: int = field(default=40, metadata={"help": "Steps of the family."})
    start_steps: int = field(default=30, metadata={"help": "Steps before a language is added."})
    added_steps: int = field(default=32, metadata={"help": "Steps of the language that is added."})
    watched_at: list[int] = field(
        default_factory=list, metadata={"help": "Steps of an addition after which to look."}
    )
    training: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Further arguments of MetaAdapterTrainingArguments (YAML only)."},
    )


def small_llm_plan(args: SmallLlmArguments, digest: str) -> Cells:
    """Return the cells: the family, the two starts, and then seed by seed the additions.

    Args:
        args: The settings of the study.
        digest: The digest of its inputs.

    Returns:
        Name → settings.
    """
    cells = {"family": _cell(args, "family", BOTH, START_SEED, digest)}
    for arm in (ONE, BOTH):
        cells[f"start-{arm}"] = _cell(args, "start", arm, START_SEED, digest)

    for seed in args.seeds:
        for arm in ARMS:
            cells[f"added-{arm}-{seed}"] = _cell(args, "added", arm, seed, digest)
    return cells


def text_and_model(data: str, languages: Sequence[Language], model: str) -> str:
    """Return what tells text and model from others: the start of a SHA-256.

    Args:
        data: The folder of the text.
        languages: The languages.
        model: The folder of the model, or its name.
    """
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for language, lines in read_texts(data, split, languages).items():
            digest.update("\n".join([split, language, *lines]).encode())

    folder = Path(model)
    if not folder.is_dir():
        digest.update(model.encode())
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _cell(args: SmallLlmArguments, part: str, arm: str, seed: int, digest: str) -> SmallLlmCell:
    of_family = part == "family"
    return {
        "version": VERSION,
        "libraries": {library: version(library) for library in LIBRARIES},
        "digest": digest,
        "part": part,
        "arm": arm,
        "languages": args.family if of_family else args.start,
        "steps": args.family_steps if of_family else args.start_steps,
        "added": args.added,
        "added_steps": args.added_steps,
        "watched": args.watched,
        "watched_at": args.watched_at,
        "seed": seed,
        "shared_rank": args.shared_rank,
        "adapter_rank": args.adapter_rank,
        "max_length": args.max_length,
        "test_rows": args.test_rows,
        "training": args.training,
    }

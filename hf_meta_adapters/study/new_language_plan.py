"""The cells of the study of new languages: families first, then the languages added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.grid import ComputedCell
from hf_meta_adapters.study.new_language_cell import FRESH, FamilyCell, GrowthCell
from hf_meta_adapters.study.resumable_study import ResumableStudyArguments
from hf_meta_adapters.training.reptile_start import REPTILE_START

__all__ = [
    "STARTS",
    "NewLanguageArguments",
    "family_plan",
    "growth_name",
    "growth_plan",
    "taken_start",
]

VERSION = 1
"""Raised by whoever changes what a cell computes: cells of another version are computed anew."""

LIBRARIES = ("torch", "transformers", "peft")
"""Cells that other versions of these computed do not count either."""

STARTS = ("fresh", "mean", "nearest", "gradient", "reptile")
"""The starts; `nearest` is the language that scores best, `gradient` the one that agrees most."""

Families: TypeAlias = dict[str, FamilyCell]
"""Name → settings."""

Growths: TypeAlias = dict[str, GrowthCell]
"""Name → settings."""


@dataclass
class NewLanguageArguments(ResumableStudyArguments):
    """Which languages are added to which family, from which starts.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    output_dir: str = field(
        default="outputs/new_language",
        metadata={"help": "Folder for cells, families and report."},
    )

    # What is compared.
    criterion: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "See `judge_starts` (YAML only)."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "One family for each (YAML only)."}
    )
    estimated_hours: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Part → what it was expected to take on one core (YAML only)."},
    )

    # The data.
    data: str = field(default="", metadata={"help": "Folder with text/<language>/."})
    family: list[str] = field(
        default_factory=list, metadata={"help": "The languages of the family (YAML only)."}
    )
    new: list[str] = field(
        default_factory=list, metadata={"help": "The languages that are added (YAML only)."}
    )
    near_rows: int = field(
        default=32, metadata={"help": "Lines of each language that tell which are near."}
    )
    test_rows: int = field(default=60, metadata={"help": "Test lines of a new language."})

    # The encoder, the family, and the training of a new language.
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
    options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "learning_rate, adapter_rate, training of the family (YAML only)."},
    )
    reptile: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "See `add_reptile_start`, and batch_size (YAML only)."},
    )
    growth: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "learning_rate, batch_size, max_length, text_limit, mlm_probability, training"
            " of a new language (YAML only)."
        },
    )
    steps: list[int] = field(
        default_factory=lambda: [0, 10, 50, 200],
        metadata={"help": "The steps after which it is scored (YAML only)."},
    )


def family_plan(args: NewLanguageArguments, digest: str) -> Families:
    """Return the families, one for each seed.

    Args:
        args: The settings of the study.
        digest: That of texts and encoder.

    Returns:
        Name → settings.

    Raises:
        ConfigurationError: If a new language is in the family.
    """
    both = sorted(set(args.family) & set(args.new))
    if both:
        raise ConfigurationError(
            f"A new language must be one that the family lacks. Found {both} in both. Take it out"
            " of `family` or `new`."
        )

    cells: Families = {}
    for seed in args.seeds:
        cells[f"family-{seed}"] = {
            "version": VERSION,
            "libraries": {library: version(library) for library in LIBRARIES},
            "digest": digest,
            "head": args.head,
            "family": args.family,
            "pretraining": args.pretraining,
            "options": args.options,
            "reptile": args.reptile,
            "seed": seed,
            "new": args.new,
            "near_rows": args.near_rows,
        }
    return cells


def growth_plan(
    args: NewLanguageArguments, families: Mapping[str, ComputedCell], digest: str
) -> Growths:
    """Return the languages that are added to the families, seed by seed.

    Starts that are the same one, such as the language that scores best and the one that agrees
    most, share a cell.

    Args:
        args: The settings of the study.
        families: The cells of `family_plan`, computed.
        digest: That of texts and encoder.

    Returns:
        Name → settings.
    """
    cells: Growths = {}
    plan = family_plan(args, digest)
    for name, of_family in plan.items():
        for language in args.new:
            for start in STARTS:
                taken = taken_start(start, language, families[name])
                cells[growth_name(language, taken, of_family["seed"])] = {
                    "of_family": of_family,
                    "language": language,
                    "copy_from": taken,
                    "growth": args.growth,
                    "steps": args.steps,
                    "test_rows": args.test_rows,
                    "seed": of_family["seed"],
                }
    return cells


def taken_start(start: str, language: Language, family: ComputedCell) -> str:
    """Return what `copy_from` is for a start.

    Args:
        start: One of `STARTS`.
        language: The new language.
        family: The cell of the family, which says which language is near.

    Returns:
        A language of the family, `"mean"`, or nothing for a fresh adapter.
    """
    if start == "nearest":
        scores = family["result"]["nearest"][language]
        return min(scores, key=lambda key: float(scores[key]))
    if start == "gradient":
        cosines = family["result"]["gradient"][language]
        return max(cosines, key=lambda key: float(cosines[key]))
    return {"fresh": FRESH, "mean": "mean", "reptile": REPTILE_START}[start]


def growth_name(language: Language, copy_from: str, seed: int) -> str:
    """Return the name of a cell of `growth_plan`."""
    return f"{language}-{copy_from or 'fresh'}-{seed}"

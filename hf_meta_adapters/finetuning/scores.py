"""The files of a fine-tuning experiment."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from hf_meta_adapters._typing import Keywords, Language, Rows
from hf_meta_adapters._version import __version__
from hf_meta_adapters.evaluation import LanguageScores, Task, majority_baseline
from hf_meta_adapters.finetuning._finetuning_arguments import OLD_NAMES, FinetuningArguments
from hf_meta_adapters.results.files import write_text

__all__ = ["library_versions", "majority_scores", "save_scores"]


def majority_scores(
    protocol: str, task: Task, train: Mapping[Language, Rows], test: Mapping[Language, Rows]
) -> dict[Language, float]:
    """Compute the scores to beat: those of the most frequent label that a model has learned from.

    Args:
        protocol: Within a language, that is the label of the language itself; otherwise that of
            the source language.
        task: A tagging task, or NLI.
        train: Language → training examples, the source language first.
        test: Language → the examples to score.

    Returns:
        Language → score.

    Example:
        >>> from hf_meta_adapters.evaluation import NLI
        >>> def pairs(*labels):
        ...     return [{"premise": "a", "hypothesis": "b", "label": label} for label in labels]
        >>> train = {"en": pairs("neutral"), "sw": pairs("entailment")}
        >>> test = {"en": pairs("neutral", "neutral"), "sw": pairs("entailment", "neutral")}
        >>> majority_scores("within-language", NLI(), train, test)
        {'en': 1.0, 'sw': 0.5}
    """
    source = next(iter(train))

    scores: dict[Language, float] = {}
    for language, rows in test.items():
        learned = train[language if protocol == "within-language" else source]
        scores |= majority_baseline(task, learned, {language: rows}).values()
    return scores


def save_scores(
    args: FinetuningArguments,
    scores: LanguageScores,
    *,
    majority: Mapping[Language, float] | None,
    seconds: float,
    training: Keywords | None = None,
) -> None:
    """Write `scores.json`, `scores.md` and `scores.png` to the output folder.

    Args:
        args: The settings, for the record.
        scores: The scores.
        majority: Language → the score of the most frequent label; `None` for a task without labels.
        seconds: How long the experiment took.
        training: The arguments of the Trainer that were given, for the record.
    """
    arguments = {**asdict(args), **(training or {})}
    # Old names are empty, and a token is nobody's business.
    for name in (*OLD_NAMES, "hub_token"):
        arguments.pop(name, None)

    record = {
        "arguments": arguments,
        "versions": library_versions(),
        "machine": platform.machine(),
        "majority": majority,
        "seconds": round(seconds),
        **scores.to_dict(),
    }
    content = json.dumps(record, indent=2, ensure_ascii=False, default=str)

    folder = Path(args.output_dir)
    write_text(folder / "scores.json", content)
    write_text(folder / "scores.md", scores.to_markdown())
    scores.plot(folder / "scores.png")


def library_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide what it computes."""
    return {
        "hf_meta_adapters": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

"""The files of a fine-tuning experiment."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.results.files import write_text

__all__ = ["library_versions", "save_scores"]


def save_scores(
    args: FinetuningArguments,
    scores: LanguageScores,
    *,
    majority: Mapping[Language, float] | None,
    seconds: float,
) -> None:
    """Write `scores.json`, `scores.md` and `scores.png` to the output folder.

    Args:
        args: The settings, for the record.
        scores: The scores.
        majority: Language → the score of the most frequent label; `None` for a task without labels.
        seconds: How long the experiment took.
    """
    record = {
        "arguments": asdict(args),
        "versions": library_versions(),
        "machine": platform.machine(),
        "majority": majority,
        "seconds": round(seconds),
        **scores.to_dict(),
    }
    content = json.dumps(record, indent=2, ensure_ascii=False)

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

"""Where the scores of a pretrained model go."""

from __future__ import annotations

import json
from pathlib import Path

from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["report_scores"]


def report_scores(trainer: MetaAdapterTrainer, scores: LanguageScores, *, dataset: str) -> None:
    """Hand scores to the model card, write them to `output_dir`, and print them.

    The card shows them from the next `trainer.save_model()` on. The files are `scores.json` and
    `scores.md`; only the process that saves the model writes them.

    Args:
        trainer: The Trainer of the model.
        scores: The scores.
        dataset: What they were measured on, for the card; "" if that has no public name.
    """
    trainer.scores.append({**scores.to_dict(), "dataset": dataset})
    if not trainer.args.should_save:
        return

    folder = Path(str(trainer.args.output_dir))
    table = scores.to_markdown()
    write_text(folder / "scores.json", json.dumps(scores.to_dict(), indent=2))
    write_text(folder / "scores.md", table)
    print(table)

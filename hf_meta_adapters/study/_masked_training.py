"""Training on masked text in a folder of its own, as every method of a study does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.default_collator import Collator
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

MakeArguments = Callable[[str], MetaAdapterTrainingArguments]
"""The arguments of a run, from its folder."""


@dataclass(frozen=True)
class MaskedTraining:
    """What all runs of a cell have in common.

    Args:
        rows: Language → tokenized lines.
        collator: Makes batches: masks tokens, say.
        callbacks: Callbacks of the Trainer.
    """

    rows: dict[Language, Dataset]
    collator: Collator
    callbacks: Sequence[TrainerCallback]

    def run(self, model: LanguageAdapterModel, arguments: MakeArguments) -> MetaAdapterTrainer:
        """Train a model on the text of its languages; those without rows are left out.

        Args:
            model: The model.
            arguments: Makes the arguments.

        Returns:
            The Trainer, after training.
        """
        with TemporaryDirectory() as folder:
            trainer = MetaAdapterTrainer(
                model,
                arguments(folder),
                train_dataset={key: self.rows[key] for key in model.languages if key in self.rows},
                data_collator=self.collator,
                callbacks=[*self.callbacks],
            )
            # With `disable_tqdm`, transformers prints every log instead.
            trainer.remove_callback(PrinterCallback)
            trainer.train()

        return trainer

    def batches(self, rows_per_batch: int, count: int) -> dict[Language, list[Batch]]:
        """The first batches of each language, masked; those without a masked token are left out.

        Args:
            rows_per_batch: Rows of a batch.
            count: Batches of a language, at most.
        """
        found: dict[Language, list[Batch]] = {}
        for language, rows in self.rows.items():
            end = min(len(rows), rows_per_batch * count)
            batches = [
                self.collator([*rows.select(range(start, min(start + rows_per_batch, end)))])
                for start in range(0, end, rows_per_batch)
            ]
            found[language] = [
                dict(batch) for batch in batches if (batch["labels"] != IGNORED_LABEL).any()
            ]

        return found

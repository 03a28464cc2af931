"""One stage of fine-tuning: a model, the labels of some languages, and a run of the Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    TrainerCallback,
)
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.evaluation.sanity import check_moved, head_of
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._stage_arguments import stage_arguments
from hf_meta_adapters.finetuning._task_trainer import TaskTrainer
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Stage", "StageRecord", "train_stage"]


@dataclass(frozen=True)
class Stage:
    """The data of a stage, language → examples.

    Args:
        train: For the training loss.
        meta: For the meta-gradient; a word is passed on to the Trainer.
        selection: To select a model on.
    """

    train: Mapping[Language, Rows]
    meta: Mapping[Language, Rows] | str | None = None
    selection: Mapping[Language, Rows] | None = None


@dataclass(frozen=True)
class StageRecord:
    """What a stage did.

    Args:
        steps: The optimizer steps that it took.
        best_step: The step whose model was kept; `None` without selection data.
        best_score: The mean score of that model on the selection data.
    """

    steps: int
    best_step: int | None = None
    best_score: float | None = None


def train_stage(
    model: LanguageAdapterModel,
    task: Task,
    stage: Stage,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings,
) -> StageRecord:
    """Minimize the loss of a task on the data of a stage, in place.

    Args:
        model: The model, with the head of the task; afterwards in evaluation mode.
        task: The task.
        stage: The data.
        tokenizer: The tokenizer.
        settings: How to fine-tune.

    Returns:
        What it did.

    Raises:
        ConfigurationError: If arguments cannot work, or the head has not moved.
        DataError: If a language has no rows, or rows have two roles.
    """

    def features(datasets: Mapping[Language, Rows]) -> dict[Language, list[dict[str, Any]]]:
        length = settings.max_length
        return {
            language: task.features(rows, tokenizer, language=language, max_length=length)
            for language, rows in datasets.items()
        }

    train, meta = features(stage.train), stage.meta
    if isinstance(meta, Mapping):
        meta = features(meta)
    selection = stage.selection or {}

    # Tags, one for each token, are padded like the tokens; the label of a whole row is a number.
    first_row = next(iter(train.values()))[0]
    collator = DataCollatorWithPadding(tokenizer)
    if isinstance(first_row.get("labels"), list):
        collator = DataCollatorForTokenClassification(tokenizer)

    head_before = head_of(model.base_model)
    with TemporaryDirectory() as folder:
        trainer = TaskTrainer(
            model,
            stage_arguments(
                settings,
                task,
                {language: len(rows) for language, rows in train.items()},
                folder,
                has_meta_rows=meta is not None,
                selects=bool(selection),
            ),
            task=task,
            tokenizer=tokenizer,
            max_length=settings.max_length,
            selection=selection,
            train_dataset=train,
            meta_dataset=meta,
            eval_dataset=features(selection) or None,
            data_collator=collator,
            callbacks=_callbacks(settings, selects=bool(selection)),
        )
        # With `disable_tqdm`, transformers prints every log instead.
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    check_moved(head_before, model.base_model)
    model.eval()
    if not selection:
        return StageRecord(trainer.state.global_step)
    return StageRecord(
        trainer.state.global_step, trainer.state.best_global_step, trainer.state.best_metric
    )


def _callbacks(settings: FinetuningSettings, *, selects: bool) -> list[TrainerCallback]:
    if not selects or settings.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(settings.early_stopping_patience)]

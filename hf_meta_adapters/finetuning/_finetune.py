"""Fine-tuning of a model with the head of a task."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.evaluation.sanity import check_moved, head_of
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["finetune"]


def finetune(
    model: LanguageAdapterModel,
    task: Task,
    datasets: Mapping[Language, Rows],
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
) -> LanguageAdapterModel:
    """Minimize the loss of a task on labelled data, each language with its φ_l, in place.

    Args:
        model: The model, with the head of the task.
        task: The task.
        datasets: Language → examples, of one language or several.
        tokenizer: The tokenizer.
        settings: The settings.

    Returns:
        The same model, in evaluation mode.

    Raises:
        ConfigurationError: If the head has not moved.
    """
    settings = settings or FinetuningSettings()
    features = {
        language: task.features(rows, tokenizer, language=language, max_length=settings.max_length)
        for language, rows in datasets.items()
    }

    # Tags, one for each token, are padded like the tokens; the label of a whole row is a number.
    first_row = next(iter(features.values()))[0]
    collator = DataCollatorWithPadding(tokenizer)
    if isinstance(first_row.get("labels"), list):
        collator = DataCollatorForTokenClassification(tokenizer)

    head_before = head_of(model.base_model)
    with TemporaryDirectory() as folder:
        trainer = MetaAdapterTrainer(
            model,
            _training_arguments(settings, _steps(settings, features), folder),
            train_dataset=features,
            data_collator=collator,
        )
        # With `disable_tqdm`, transformers prints every log instead.
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    check_moved(head_before, model.base_model)
    return model.eval()


def _steps(settings: FinetuningSettings, features: Mapping[Language, Rows]) -> int:
    """Return the number of optimizer steps; a step has `batch_size` rows of every language."""
    if settings.max_steps >= 0:
        return settings.max_steps

    rows = sum(len(language_rows) for language_rows in features.values())
    return ceil(settings.epochs * rows / (settings.batch_size * len(features)))


def _training_arguments(
    settings: FinetuningSettings, steps: int, folder: str
) -> MetaAdapterTrainingArguments:
    return MetaAdapterTrainingArguments(
        output_dir=folder,
        # Labels are too few to hold some out for a meta-gradient: φ learns as θ does.
        adapter_update="train",
        learning_rate=settings.learning_rate,
        max_steps=steps,
        warmup_steps=steps // 10,
        per_device_train_batch_size=settings.batch_size,
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not settings.progress,
        **{"adapter_learning_rate": settings.learning_rate, **settings.training},
    )

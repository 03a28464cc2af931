"""Fine-tuning of a model with the head of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._stage import Stage, train_stage
from hf_meta_adapters.finetuning._stage_arguments import check_training
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["finetune"]


def finetune(
    model: LanguageAdapterModel,
    task: Task,
    datasets: Mapping[Language, Rows],
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    meta_datasets: Mapping[Language, Rows] | None = None,
    eval_datasets: Mapping[Language, Rows] | None = None,
    **training: object,
) -> LanguageAdapterModel:
    """Minimize the loss of a task on labelled data, each language with its φ_l, in place.

    θ is updated by the mean of the languages' training gradients, and φ_l by that of l. Where
    `meta_datasets` or an option of the meta-gradient is given, φ_l is updated by the meta-gradient
    instead (`adapter_update="meta"`).

    Args:
        model: The model, with the head of the task.
        task: The task.
        datasets: Language → examples, of one language or several.
        tokenizer: The tokenizer.
        settings: The settings.
        meta_datasets: Language → examples of the meta-gradient, none of which is a training
            example; by default, where a meta-gradient is taken, a tenth of the training examples.
        eval_datasets: Language → selection examples. The model is scored on them ten times, and the
            one with the best mean of the task's metric is kept.
        **training: Arguments of `MetaAdapterTrainingArguments`, such as `lookahead="next"` or
            `meta_languages=["sw"]`; they win over those of the settings.

    Returns:
        The same model, in evaluation mode.

    Raises:
        ConfigurationError: If arguments cannot work, before training; or if the head has not moved.
        DataError: If a language has no rows, or rows have two roles.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    check_training(settings)

    train_stage(model, task, Stage(datasets, meta_datasets, eval_datasets), tokenizer, settings)
    return model

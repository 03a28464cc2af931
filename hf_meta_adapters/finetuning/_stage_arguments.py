"""The arguments of the Trainer in one stage of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch.distributed

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.meta.options import OPTION_NAMES
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["check_training", "stage_arguments", "takes_meta_gradient"]

EVALUATIONS = 10
"""How often a stage is scored on selection data: often enough to find the best step."""

NAMES_OF_META = ("preset", "inner_learning_rate", "meta_batch_size", *OPTION_NAMES)
"""Arguments that nobody gives who wants no meta-gradient."""


def takes_meta_gradient(training: Keywords, *, has_meta_rows: bool = False) -> bool:
    """Whether φ is updated by the meta-gradient: if that is said, or any of its options is given.

    Args:
        training: The arguments that were given.
        has_meta_rows: Whether rows were given for it.

    Raises:
        ConfigurationError: If `adapter_update="train"` leaves such an option without effect.
    """
    named = [name for name in NAMES_OF_META if training.get(name) is not None]
    if training.get("adapter_update") != "train":
        return bool(named or has_meta_rows or training.get("adapter_update"))

    if has_meta_rows:
        named.append("meta_datasets")
    if named:
        raise ConfigurationError(
            '`adapter_update="train"` takes no meta-gradient. Found it together with'
            f" {', '.join(f'`{name}`' for name in named)}, which would have no effect. Leave one of"
            " the two out."
        )
    return False


def check_training(settings: FinetuningSettings) -> None:
    """Check the arguments of the Trainer before data are read or models are made.

    Args:
        settings: How to fine-tune.

    Raises:
        ConfigurationError: If a value, or two together, cannot work, or an argument has no place
            in fine-tuning.
    """
    given = dict(settings.given())
    if given.get("push_to_hub"):
        raise ConfigurationError(
            "`push_to_hub` of the Trainer publishes checkpoints, and fine-tuning keeps none. Found"
            " it in `training`. Push the model when it has been scored:"
            ' `model.push_to_hub("me/model")`.'
        )

    if given.get("resume_from_checkpoint"):
        raise ConfigurationError(
            "Fine-tuning starts anew every time, and keeps no checkpoint to go on from. Found"
            f" `resume_from_checkpoint={given['resume_from_checkpoint']!r}`. Leave it out."
        )

    metric = str(given.get("metric_for_best_model") or "")
    if metric.removeprefix("eval_") == "loss" or metric.endswith("_loss"):
        raise ConfigurationError(
            "Fine-tuning selects a model by a score of the task. Found"
            f" `metric_for_best_model={metric!r}`, a loss, which is not computed. Leave it out."
        )

    patience = settings.early_stopping_patience
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise ConfigurationError(
            "`early_stopping_patience` must be a whole number of at least 1, or None to train to"
            f" the end. Found {patience!r}."
        )

    # What the Trainer itself checks. Steps, folder and selection come with each stage.
    method = {name: given[name] for name in given if name not in _OF_STAGES}
    if not takes_meta_gradient(given):
        method["adapter_update"] = "train"
    MetaAdapterTrainingArguments(output_dir="outputs", report_to="none", **method)


_OF_STAGES = (
    "output_dir",
    "report_to",
    "eval_strategy",
    "save_strategy",
    "load_best_model_at_end",
)


def stage_arguments(
    settings: FinetuningSettings,
    task: Task,
    rows: Mapping[str, int],
    folder: str,
    *,
    has_meta_rows: bool = False,
    selects: bool = False,
) -> MetaAdapterTrainingArguments:
    """Return the arguments of one stage: those that were given, and what stands for the others.

    Args:
        settings: How to fine-tune.
        task: The task, whose metric selects the model.
        rows: Language → number of training rows.
        folder: The folder of the stage, where `output_dir` names none.
        has_meta_rows: Whether there are rows for the meta-gradient.
        selects: Whether there are rows to select a model on.

    Raises:
        ConfigurationError: If a value, or two together, cannot work.
    """
    given = dict(settings.given())
    steps = given.pop("max_steps")
    if isinstance(steps, int) and steps < 0:
        steps = _steps(given, rows)

    arguments: dict[str, Any] = {
        "output_dir": folder,
        "adapter_learning_rate": given["learning_rate"],
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": not settings.progress,
    }
    if not takes_meta_gradient(given, has_meta_rows=has_meta_rows):
        arguments["adapter_update"] = "train"
    if not given.get("warmup_ratio"):
        arguments["warmup_steps"] = steps // 10
    if selects:
        arguments |= _selection(task, steps)

    return MetaAdapterTrainingArguments(**{**arguments, **given, "max_steps": steps})


def _steps(given: Keywords, rows: Mapping[str, int]) -> int:
    """Return the number of steps that show the language with most rows `num_train_epochs` times.

    A step has a batch of every language, or of `languages_per_step`.
    """
    languages = given.get("languages_per_step") or len(rows)
    batch = given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        batch *= torch.distributed.get_world_size()

    # Drawn in turn, a language is in this share of the steps.
    share = languages / len(rows)
    return max(1, ceil(given["num_train_epochs"] * max(rows.values()) / (batch * share)))


def _selection(task: Task, steps: int) -> dict[str, Any]:
    """Return arguments that keep the model of the best score, and nothing else, on the disk."""
    return {
        "eval_strategy": "steps",
        "eval_steps": max(1, ceil(steps / EVALUATIONS)),
        "save_strategy": "best",
        "save_only_model": True,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{task.metric}",
        "greater_is_better": task.higher_is_better,
    }

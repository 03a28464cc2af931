"""Scores of a model on the tasks of lm-evaluation-harness, language by language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.passes import evaluation_mode, language_router, routed_to
from hf_meta_adapters.errors import ConfigurationError, check_known_language, check_languages
from hf_meta_adapters.evaluation._evaluate import saved_tokenizer
from hf_meta_adapters.evaluation._harness_library import find_tasks, harness_library, run_task
from hf_meta_adapters.evaluation._harness_results import (
    HarnessResult,
    chosen_metric,
    common_metrics,
    read_results,
)
from hf_meta_adapters.evaluation._language_scores import LanguageScores
from hf_meta_adapters.evaluation.harness_task import HarnessTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_tasks", "evaluate_harness"]


def evaluate_harness(
    model: nn.Module,
    task: HarnessTask | str,
    languages: Sequence[Language] | None = None,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    task_folder: str | Path | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> LanguageScores:
    """Compute the scores of f(x; θ, φ_l) on a task of lm-evaluation-harness in each language l.

    The harness makes the prompts and computes the metrics, and the model itself is called, with the
    language set. So every kind of adapter can be scored, also those that are no adapter of PEFT to
    the harness.

    Args:
        model: A decoder or an encoder-decoder: a `LanguageAdapterModel`, or a transformers model,
            which is the same in all languages.
        task: The task; a string is `HarnessTask(name)`.
        languages: The languages to score; default all of the model.
        processing_class: The tokenizer; by default the one that was saved with the model.
        task_folder: A folder with tasks of your own, as YAML files of the harness.
        batch_size: Rows per pass.
        device: Where to move the model first; by default it stays where it is.

    Returns:
        The scores. `details["harness"]` has the version of lm_eval, the task of each language and
        the standard errors.

    Raises:
        ConfigurationError: If lm_eval is not installed, a language has no such task, or the model
            does not generate text.
        LanguageError: If the model does not have a language.

    Example:
        >>> from hf_meta_adapters.evaluation.harness_task import HarnessTask
        >>> task = HarnessTask("belebele_{language}", {"sw": "swh_Latn", "zh": "zho_Hans"})
        >>> def of_family(model):
        ...     return evaluate_harness(model, task, languages=["sw", "zh"])
    """
    if isinstance(task, str):
        task = HarnessTask(task)

    keys = _languages(model, languages)
    names = task.names(keys)
    _check_generates(model)
    version = harness_library().__version__
    manager = find_tasks(names, task_folder)

    tokenizer = processing_class
    if tokenizer is None:
        tokenizer = saved_tokenizer(model)
    if device is not None:
        model.to(device)

    found: dict[Language, HarnessResult] = {}
    for language, name in names.items():
        with evaluation_mode(model), routed_to(model, language):
            results = run_task(model, tokenizer, manager, name, task, batch_size)
        found[language] = read_results(name, results)
        # a metric that does not exist is found here, not after the last language
        chosen_metric(task.metric, list(found[language].metrics), {language: found[language]})

    metrics = common_metrics(found)
    metric, higher_is_better = chosen_metric(task.metric, metrics, found)
    record = {
        "lm_eval": version,
        "tasks": names,
        "num_fewshot": {language: one.num_fewshot for language, one in found.items()},
        "chat_template": task.chat_template,
        "limit": task.limit,
        "standard_errors": {language: dict(one.errors) for language, one in found.items()},
    }
    return LanguageScores(
        task=task.title,
        metric=metric,
        higher_is_better=higher_is_better,
        scores={key: {name: one.metrics[name] for name in metrics} for key, one in found.items()},
        examples={language: one.examples for language, one in found.items()},
        details={"harness": record},
        per_example={language: one.per_example for language, one in found.items()},
    )


def check_tasks(
    tasks: Sequence[HarnessTask],
    languages: Sequence[Language],
    task_folder: str | Path | None = None,
) -> None:
    """Check that the harness has tasks in all languages, before a model is loaded.

    Args:
        tasks: The tasks.
        languages: The languages to score.
        task_folder: As for `evaluate_harness`.

    Raises:
        ConfigurationError: If lm_eval is not installed, or a task is missing.
        LanguageError: If a code is of a language that is not scored.
    """
    for task in tasks:
        find_tasks(task.names(languages), task_folder)


def _languages(model: Any, languages: Sequence[Language] | None) -> tuple[Language, ...]:
    """The languages to score, each of which the model has."""
    if language_router(model) is None:
        if languages is None:
            raise ConfigurationError(
                "A model without languages of its own is scored in the languages that are named."
                ' Found none. Pass `languages=["en", ...]`.'
            )
        return check_languages(languages)

    known: tuple[Language, ...] = model.languages
    if languages is None:
        return known

    keys = check_languages(languages)
    for key in keys:
        check_known_language(key, known)
    return keys


def _check_generates(model: Any) -> None:
    """Refuse what gives no probabilities of a text: encoders, classifiers and speech."""
    base = model.base_model if language_router(model) is not None else model
    can_generate = getattr(base, "can_generate", None)
    if can_generate is None or not can_generate() or base.main_input_name != "input_ids":
        raise ConfigurationError(
            "lm-evaluation-harness scores models that generate text. Found"
            f" `{type(base).__name__}`. Load the family with `auto_class=AutoModelForCausalLM` if"
            " its base is a decoder; score other models with `evaluate_languages`."
        )

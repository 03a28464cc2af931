"""Scores of a model on a task in every language."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.anatomy.passes import language_router
from hf_meta_adapters.data.detection import LanguageDetection
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    check_known_language,
    check_languages,
)
from hf_meta_adapters.evaluation._constant_prediction import warn_if_constant
from hf_meta_adapters.evaluation._detected_rows import detection_of, run_detected
from hf_meta_adapters.evaluation._forward import config_value, run_model
from hf_meta_adapters.evaluation._language_scores import LanguageScores
from hf_meta_adapters.evaluation.task import Task, TaskScore, get_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["evaluate_languages", "saved_tokenizer"]


def evaluate_languages(
    model: nn.Module,
    task: Task | str,
    datasets: Mapping[Language, Rows],
    *,
    source_language: Language | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    adapters: Mapping[Language, Language] | LanguageDetection | str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> LanguageScores:
    """Compute the scores of f(x; θ, φ_l) on the data of each language l.

    A model with `use_language` runs in the language of the data: with the adapter φ_l and the
    shared θ, which holds the head. So within-language and zero-shot evaluation are the same call;
    `source_language` records which language was trained on. Before any pass, the languages, the
    data and the classes of the head are checked; a language in which one class is predicted
    everywhere gives a `ConstantPredictionWarning`.

    Args:
        model: A transformers model with the head of the task, or a `LanguageAdapterModel` around
            one.
        task: "ner", "pos", "qa", "nli", "masked_lm", "causal_lm", or any `Task`.
        datasets: Language → examples (a `datasets.Dataset`, or a list of dicts) with the columns
            that the task names.
        source_language: The language whose labels the head was trained on, if it was only one.
        processing_class: The tokenizer; by default the one that was saved with the model.
        adapters: Language → language, to run a language with the adapter of another one: for a
            language without an adapter, or to see what the right adapter is worth. `"auto"` or a
            `LanguageDetection` runs each row with the adapter of the language that is detected in
            its text; `details["detected"]` of the scores counts them.
        batch_size: Rows per pass.
        max_length: Tokens in a row; by default what the tokenizer allows, at most 512.
        device: Where to move the model first; by default it stays where it is.
        progress: Show a progress bar for each language.

    Returns:
        The scores.

    Raises:
        LanguageError: If a key is malformed or the model does not have the language.
        DataError: If a dataset is empty, or lacks what the task reads.
        ConfigurationError: If the head is not that of the task, or there is no tokenizer.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
        >>> letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        >>> tokenizer = PreTrainedTokenizerFast(
        ...     tokenizer_object=letters, unk_token="?", bos_token="?"
        ... )
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_layer=1, n_head=1))
        >>> data = {"en": [{"text": "abba"}], "sw": [{"text": "baba"}, {"text": "ab"}]}
        >>> scores = evaluate_languages(model, "causal_lm", data, processing_class=tokenizer)
        >>> scores.languages, 1 < scores["sw"]["bits_per_character"] < 2
        (('en', 'sw'), True)
    """
    if isinstance(task, str):
        task = get_task(task)

    # What can be checked is checked before the first pass, since all passes may take hours.
    languages = _check_data(datasets)
    detection = detection_of(adapters, model)
    routes = _routes(model, languages, adapters, source_language)
    _check_head(model, task)

    tokenizer = processing_class
    if tokenizer is None:
        tokenizer = saved_tokenizer(model)
    if device is not None:
        model.to(device)

    scores: dict[Language, TaskScore] = {}
    detected: dict[Language, dict[Language, int]] = {}
    options: Any = {"batch_size": batch_size, "progress": progress}
    for language in languages:
        data = datasets[language]
        features = task.features(data, tokenizer, language=language, max_length=max_length)

        # Logits of a whole test set would not fit in memory: `decode` keeps little of each batch.
        if detection is None:
            decoded = run_model(model, features, task.decode, language=routes[language], **options)
        else:
            decoded, detected[language] = run_detected(
                model, features, task.decode, detection, tokenizer, **options
            )

        predictions = task.predictions(data, features, decoded)
        scores[language] = task.score(data, predictions, language=language)
        warn_if_constant(scores[language].constant_prediction, language, task.name)

    return LanguageScores(
        task=task.name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        scores={language: score.metrics for language, score in scores.items()},
        examples={language: len(datasets[language]) for language in languages},
        source_language=source_language,
        adapters={language: adapter for language, adapter in routes.items() if adapter != language},
        details={"detected": detected} if detected else {},
        per_example={language: score.per_example for language, score in scores.items()},
    )


def _check_data(datasets: Mapping[Language, Rows]) -> tuple[Language, ...]:
    """Return the languages of the data, each with at least one example."""
    if not isinstance(datasets, Mapping):
        raise DataError(
            f"`datasets` must map each language to its examples. Found `{type(datasets).__name__}`."
            ' Use for example {"en": dataset}.'
        )

    languages = check_languages(datasets)
    for language in languages:
        data: object = datasets[language]
        if not isinstance(data, Sized):
            raise DataError(
                f"Scores need a dataset of known length. Found `{type(data).__name__}` for"
                f" {language!r}. Use for example `Dataset.from_list(list(stream.take(1000)))`."
            )

        if not len(data):
            raise DataError(
                f"A dataset must hold at least one example. Found none for {language!r}. Remove"
                " the language."
            )

    return languages


def _routes(
    model: nn.Module,
    languages: tuple[Language, ...],
    adapters: Mapping[Language, Language] | LanguageDetection | str | None,
    source_language: Language | None,
) -> dict[Language, Language]:
    """Return the language that the model runs in for each language of the data.

    Where languages are detected, each stands for itself, and the model need not have it.
    """
    if adapters is not None and not isinstance(adapters, Mapping):
        if source_language is not None:
            check_known_language(source_language, _known(model))
        return {language: language for language in languages}

    adapters = adapters or {}
    # The keys of `adapters` are languages of the data, its values languages of the model.
    for language in adapters:
        check_known_language(language, languages, what="`datasets`, which `adapters` refers to")
    routes = {language: adapters.get(language, language) for language in languages}

    if language_router(model) is not None:
        known = _known(model)
        for language in routes.values():
            check_known_language(language, known)

        if source_language is not None:
            check_known_language(source_language, known)
    elif adapters:
        raise ConfigurationError(
            f"`adapters` needs a model with language adapters. Found `{type(model).__name__}`."
            " Create one with `get_language_model`."
        )

    return routes


def _known(model: Any) -> tuple[Language, ...]:
    """The languages of a model that has some."""
    known: tuple[Language, ...] = model.languages
    return known


def _check_head(model: nn.Module, task: Task) -> None:
    """Check that the classes of the head are those of the task, in the same order."""
    names = config_value(model, "id2label")
    if names is None or not task.labels:
        return

    # A config from JSON has strings as keys.
    classes = {int(index): name for index, name in names.items()}
    if classes != task.id2label:
        raise ConfigurationError(
            "The head of the model must have the classes of the task, in the same order:"
            f" {task.id2label}. Found {classes}. Create the model with `id2label=task.id2label,"
            f" label2id=task.label2id`, where `task = get_task({task.name!r})`; if it was trained"
            " in exactly this order without the names, set `model.config.id2label = task.id2label`."
        )


def saved_tokenizer(model: nn.Module) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    # An empty path fails like an unknown one; `None` would be a `TypeError`.
    path = config_value(model, "name_or_path")
    try:
        return AutoTokenizer.from_pretrained(path or "")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "The text must be cut into tokens by the model's tokenizer. Found none saved in"
            f" {path!r}. Pass `evaluate_languages(..., processing_class=tokenizer)`."
        ) from error

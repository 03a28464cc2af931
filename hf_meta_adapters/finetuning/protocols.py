"""The protocols of cross-lingual evaluation: within a language, zero-shot and few-shot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from numpy import float64
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import check_known_language
from hf_meta_adapters.evaluation import LanguageScores, Task, evaluate_languages
from hf_meta_adapters.evaluation.sanity import warn_if_adapters_agree, warn_if_not_learned
from hf_meta_adapters.finetuning._finetune import finetune
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PROTOCOLS", "few_shot", "within_language", "zero_shot"]

CHECKED_EXAMPLES = 64
"""How many training examples a model must have learned: enough to tell, and quick."""

COMPARED_EXAMPLES = 4
"""How many examples the adapters of two languages are compared on."""

MakeModel: TypeAlias = Callable[[], LanguageAdapterModel]
Datasets: TypeAlias = Mapping[Language, Rows]


def within_language(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
) -> LanguageScores:
    """Compute the scores in each language l of a model trained on labels in l, both with φ_l.

    Args:
        make_model: Makes the pretrained model with a new head, the same each time.
        task: The task.
        train: Language → labelled training examples.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.

    Returns:
        The scores, each language from a model of its own.
    """
    scores = []
    for language in test:
        rows = train[check_known_language(language, train, what="`train`")]
        model = finetune(make_model(), task, {language: rows}, tokenizer, settings)
        _check_learned(model, task, language, rows, tokenizer)

        scores.append(_evaluate(model, task, {language: test[language]}, tokenizer, settings))

    return _joined(scores)


def zero_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
) -> LanguageScores:
    """Compute the scores in each language l, with φ_l, of one model trained on a source language.

    It is trained on the labels of the source language, with φ_source.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples; only those of the source are used.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.
        source_language: The language of the labels.

    Returns:
        The scores; `zero_shot_mean` leaves the source out.
    """
    model = _trained_on_source(make_model, task, train, tokenizer, settings, source_language)

    # One adapter for all languages, or none at all, gives the same output by construction.
    if not model.share_adapter and model.backend.name != "none":
        examples = list(train[source_language])[:COMPARED_EXAMPLES]
        rows = task.features(examples, tokenizer, language=source_language)
        warn_if_adapters_agree(model, rows, source_language, list(test))

    return _evaluate(model, task, test, tokenizer, settings, source_language)


def few_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
    shots: int = 100,
) -> LanguageScores:
    """Compute the scores in each language l of the zero-shot model, trained further on a bit of l.

    The further training uses φ_l.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples: all of the source are used, and the first
            `shots` of every other language.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune, both times.
        source_language: The language of the many labels.
        shots: How many examples of each other language are used.

    Returns:
        The scores.
    """
    model = _trained_on_source(make_model, task, train, tokenizer, settings, source_language)
    zero_shot_state = {name: value.clone() for name, value in model.state_dict().items()}

    scores = []
    for language in test:
        # Every language starts from the zero-shot model, not from the language before it.
        model.load_state_dict(zero_shot_state)
        if language != source_language:
            rows = train[check_known_language(language, train, what="`train`")]
            finetune(model, task, {language: list(rows)[:shots]}, tokenizer, settings)

        scores.append(_evaluate(model, task, {language: test[language]}, tokenizer, settings))

    return _joined(scores)


PROTOCOLS: dict[str, Callable[..., LanguageScores]] = {
    "within-language": within_language,
    "zero-shot": zero_shot,
    "few-shot": few_shot,
}
"""The name of a protocol on the command line → its function."""


def _trained_on_source(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None,
    source: Language,
) -> LanguageAdapterModel:
    rows = train[check_known_language(source, train, what="the training data")]
    model = finetune(make_model(), task, {source: rows}, tokenizer, settings)

    _check_learned(model, task, source, rows, tokenizer)
    return model


def _check_learned(
    model: LanguageAdapterModel,
    task: Task,
    language: Language,
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    # On its training examples even a model that generalizes badly must beat the majority label.
    examples = list(rows)[:CHECKED_EXAMPLES]
    scores = evaluate_languages(model, task, {language: examples}, processing_class=tokenizer)
    warn_if_not_learned(scores, task, examples)


def _evaluate(
    model: LanguageAdapterModel,
    task: Task,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None,
    source_language: Language | None = None,
) -> LanguageScores:
    settings = settings or FinetuningSettings()
    return evaluate_languages(
        model,
        task,
        test,
        source_language=source_language,
        processing_class=tokenizer,
        max_length=settings.max_length,
        progress=settings.progress,
    )


def _joined(scores_of_models: Sequence[LanguageScores]) -> LanguageScores:
    """Return the scores of several models, one language each, as those of one model."""
    scores: dict[Language, Mapping[str, float]] = {}
    examples: dict[Language, int] = {}
    per_example: dict[Language, Mapping[str, NDArray[float64]]] = {}
    for model_scores in scores_of_models:
        scores |= model_scores.scores
        examples |= model_scores.examples
        per_example |= model_scores.per_example

    return replace(scores_of_models[0], scores=scores, examples=examples, per_example=per_example)

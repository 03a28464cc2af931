"""The protocols of cross-lingual evaluation: within a language, zero-shot from a source language, and few-shot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import check_known_language
from hf_meta_adapters.evaluation import LanguageScores, Task, evaluate_languages
from hf_meta_adapters.evaluation.sanity import warn_if_adapters_agree, warn_if_not_learned
from hf_meta_adapters.finetuning._finetune import FinetuningSettings, finetune
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PROTOCOLS", "few_shot", "within_language", "zero_shot"]

_CHECKED = 64  # training examples that a model must have learned; enough to tell, and quick
MakeModel = Callable[[], LanguageAdapterModel]
Datasets = Mapping[Language, Rows]


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
        The scores, of one model a language.
    """
    found = []
    for key in test:
        model = finetune(
            make_model(),
            task,
            {key: train[check_known_language(key, train, what="`train`")]},
            tokenizer,
            settings,
        )
        _check_learned(model, task, key, train[key], tokenizer)
        found.append(_evaluate(model, task, {key: test[key]}, tokenizer, settings))
    return _together(found)


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
    """Compute the scores in each language l, with φ_l, of one model trained on labels in the source with φ_source.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples; those of the source are used.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.
        source_language: The language of the labels.

    Returns:
        The scores; `zero_shot_mean` leaves the source out.
    """
    model = _from_source(make_model, task, train, tokenizer, settings, source_language)
    rows = task.features(list(train[source_language])[:4], tokenizer, language=source_language)
    if not model.share_adapter and model.backend.name != "none":
        warn_if_adapters_agree(model, rows, source_language, list(test))
    return _evaluate(model, task, test, tokenizer, settings, source_language=source_language)


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
    """Compute the scores in each language l of the zero-shot model, trained further on a few examples of l with φ_l.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples; all of the source are used, the first `shots`
            of each other.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune, both times.
        source_language: The language of the many labels.
        shots: Examples of each other language.

    Returns:
        The scores.
    """
    model = _from_source(make_model, task, train, tokenizer, settings, source_language)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for key in test:
        model.load_state_dict(state)
        if key != source_language:
            rows = list(train[check_known_language(key, train, what="`train`")])[:shots]
            finetune(model, task, {key: rows}, tokenizer, settings)
        found.append(_evaluate(model, task, {key: test[key]}, tokenizer, settings))
    return _together(found)


PROTOCOLS: dict[str, Callable[..., LanguageScores]] = {
    "within-language": within_language,
    "zero-shot": zero_shot,
    "few-shot": few_shot,
}
"""The name of a protocol on the command line → its function."""


def _from_source(
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
    few = [*rows][:_CHECKED]
    warn_if_not_learned(
        evaluate_languages(model, task, {language: few}, processing_class=tokenizer), task, few
    )


def _evaluate(
    model: LanguageAdapterModel,
    task: Task,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None,
    **options: Any,
) -> LanguageScores:
    how = settings or FinetuningSettings()
    options |= {"max_length": how.max_length, "progress": how.progress}
    return evaluate_languages(model, task, test, processing_class=tokenizer, **options)


def _together(scores: Sequence[LanguageScores]) -> LanguageScores:
    """Return the scores of several models, one language each, as those of one."""
    return replace(
        scores[0],
        scores={key: values for one in scores for key, values in one.scores.items()},
        examples={key: count for one in scores for key, count in one.examples.items()},
        per_example={key: values for one in scores for key, values in one.per_example.items()},
    )

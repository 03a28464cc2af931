"""Which adapters of a model suit a language that it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation._evaluate import evaluate_languages
from hf_meta_adapters.evaluation._own_adapters import check_own_adapters
from hf_meta_adapters.evaluation.task import Task
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["nearest_languages"]


def nearest_languages(
    model: LanguageAdapterModel,
    task: Task | str,
    dataset: Rows,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    device: torch.device | str | None = None,
) -> dict[Language, float]:
    """Compute the score of f(x; θ, φ_l) on data of another language for each l, the best first.

    The best is a start for the new language: `model.add_language("yo", copy_from=...)`. All
    adapters are scored on the same rows, and of a masked language model on the same masks. A start
    that `add_reptile_start` has trained, `"x-reptile"`, is scored like a language.

    Args:
        model: The model.
        task: As for `evaluate_languages`: "masked_lm" and "causal_lm" need nothing but text.
        dataset: Examples of the other language; some dozens of texts will do.
        processing_class: The tokenizer; by default the one that was saved with the model.
        batch_size: Rows per pass.
        max_length: Tokens in a row; by default what the tokenizer allows, at most 512.
        device: Where to move the model first; by default it stays where it is.

    Returns:
        Language of the model → score by the metric of the task, such as bits per character.

    Raises:
        ConfigurationError: If the languages share one adapter, or none, or the head is not that of
            the task.
        DataError: If the dataset is empty, or lacks what the task reads.

    Example:
        >>> from hf_meta_adapters.evaluation.nearest_languages import nearest_languages
        >>> def start(model, texts):
        ...     found = nearest_languages(model, "causal_lm", [{"text": text} for text in texts])
        ...     model.add_language("yo", copy_from=next(iter(found)))
    """
    check_own_adapters(model)

    # the data under one key: the masks of a masked language model depend on it
    key = model.languages[0]
    found = []
    for language in model.languages:
        scores = evaluate_languages(
            model,
            task,
            {key: dataset},
            adapters={key: language},
            processing_class=processing_class,
            batch_size=batch_size,
            max_length=max_length,
            device=device,
        )
        sign = -1 if scores.higher_is_better else 1
        found.append((sign * scores.values()[key], language, scores.values()[key]))

    # by the score alone: of equal ones, the language that the model has first
    found.sort(key=lambda entry: entry[0])
    return {language: score for _, language, score in found}

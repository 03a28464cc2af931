"""Rows that run in the language that is detected in their text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.passes import language_router
from hf_meta_adapters.backends.rows import rows_by_language
from hf_meta_adapters.data.detection import AUTO, LanguageDetection
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._forward import Feature, run_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Decoded = TypeVar("Decoded")


def detection_of(adapters: object, model: nn.Module) -> LanguageDetection | None:
    """What detects the languages of rows; `None` where adapters are given by language.

    Args:
        adapters: As for `evaluate_languages`.
        model: The model.

    Raises:
        ConfigurationError: If it is another string, or the model has no languages.
    """
    detection = LanguageDetection() if adapters == AUTO else adapters
    if isinstance(detection, str):
        raise ConfigurationError(
            f'`adapters` must be "{AUTO}", a `LanguageDetection` or a dict of languages. Found'
            f' {adapters!r}. Use for example {{"sw": "en"}}.'
        )

    if not isinstance(detection, LanguageDetection):
        return None

    if language_router(model) is None:
        raise ConfigurationError(
            f"`adapters` needs a model with language adapters. Found `{type(model).__name__}`."
            " Create one with `get_language_model`."
        )
    return detection


def run_detected(
    model: Any,
    features: Sequence[Feature],
    decode: Callable[[Sequence[Feature], object], Sequence[Decoded]],
    detection: LanguageDetection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    progress: bool,
) -> tuple[list[Decoded], dict[Language, int]]:
    """Run each row in the language of its text.

    The text is what the tokens of the row say, without special tokens.

    Args:
        model: The model, with languages.
        features: As for `run_model`.
        decode: As for `run_model`.
        detection: What detects languages.
        tokenizer: The tokenizer.
        batch_size: As for `run_model`.
        progress: As for `run_model`.

    Returns:
        One result for each row, and the number of rows by language of the model.
    """
    texts = [str(tokenizer.decode(row["input_ids"], skip_special_tokens=True)) for row in features]
    groups = rows_by_language(detection.languages_of(texts, model.languages))

    results: dict[int, Decoded] = {}
    for language, rows in groups.items():
        part = run_model(
            model,
            [features[row] for row in rows],
            decode,
            language=language,
            batch_size=batch_size,
            progress=progress,
        )
        results.update(zip(rows, part, strict=True))

    counts = {language: len(rows) for language, rows in groups.items()}
    return [results[row] for row in range(len(features))], counts

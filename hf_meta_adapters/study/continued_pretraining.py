"""Training a pretrained encoder further on text of several languages, by one arm of a study."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study._masked_training import MaskedTraining
from hf_meta_adapters.study.methods import Method, method_arguments
from hf_meta_adapters.study.parallel_rows import ParallelRows
from hf_meta_adapters.study.training_meter import training_meter
from hf_meta_adapters.study.translation_ranking import TranslationCollator, TranslationRanker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["OBJECTIVES", "ContinuedPretraining", "continue_pretraining"]

OBJECTIVES = ("masked_words", "translations")


@dataclass(frozen=True)
class ContinuedPretraining:
    """What is trained, on how much text of which kind.

    Args:
        objective: `"masked_words"` or `"translations"` (see `TranslationRanker`).
        trained: θ, as `shared` of `get_language_model`.
        bottleneck_size: The width of adapters; `None` for the default of `BottleneckConfig`.
        steps: Optimizer steps, before they are multiplied by `Method.steps`.
        batch_size: Rows of each language in a step.
        max_length: Tokens in a row.
        text_limit: Lines of a language, drawn by the seed.
        mlm_probability: The share of the tokens that are to be predicted.
        temperature: τ of `TranslationRanker`.
    """

    objective: str
    trained: str
    bottleneck_size: int | None
    steps: int
    batch_size: int
    max_length: int
    text_limit: int
    mlm_probability: float
    temperature: float

    def __post_init__(self) -> None:
        """Check the objective."""
        if self.objective not in OBJECTIVES:
            raise ConfigurationError(
                f"`objective` must be one of {list(OBJECTIVES)}. Found {self.objective!r}."
            )


def continue_pretraining(
    method: Method,
    settings: ContinuedPretraining,
    start: str | Path,
    texts: Mapping[Language, Sequence[str]] | ParallelRows,
    *,
    seed: int,
    training: Mapping[str, Any],
) -> tuple[LanguageAdapterModel, dict[str, Any]]:
    """Train a masked language model further by a method; without steps, leave it as it is.

    Args:
        method: The method.
        settings: The rest.
        start: The folder of the encoder with a head, and of the tokenizer.
        texts: Language → lines; for `"translations"`, texts with vectors of their translations.
        seed: The seed of adapters, rows, batches and masks.
        training: Arguments of `MetaAdapterTrainingArguments`.

    Returns:
        The masked language model, in evaluation mode, and what was logged: `loss`, the training
        loss in fifths of the run, and the meter of the meta-gradient.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(start))
    rows = _rows(settings, tokenizer, texts, seed)

    # The seed comes before the adapters, so that every method starts from the same ones.
    transformers.set_seed(seed)
    encoder = transformers.AutoModelForMaskedLM.from_pretrained(str(start))
    if not method.steps:
        return _with_adapters(encoder, method, settings, list(rows)).eval(), {}

    base, collator = _objective(settings, encoder, tokenizer, texts)
    model = _with_adapters(base, method, settings, list(rows))
    options = {
        "per_device_train_batch_size": settings.batch_size,
        "remove_unused_columns": False,
        **training,
    }
    trainer = MaskedTraining(rows, collator, ()).run(
        model, method_arguments(method, settings.steps, seed, options)
    )

    logs = trainer.state.log_history
    record = {
        "loss": [round(one["loss"], 4) for one in logs if "loss" in one],
        **training_meter(logs),
    }
    return _as_masked_model(model, start, method, settings).eval(), record


def _rows(
    settings: ContinuedPretraining,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Language, Sequence[str]] | ParallelRows,
    seed: int,
) -> dict[Language, Dataset]:
    """The rows of each language, some of its lines where it has more than enough."""
    lines = texts.texts if isinstance(texts, ParallelRows) else texts
    rows: dict[Language, Dataset] = {}
    first = 0
    for language, own in lines.items():
        numbers = list(range(len(own)))
        random.Random(f"{seed}-{language}").shuffle(numbers)
        numbers = numbers[: settings.text_limit]

        encoded = tokenizer(
            [own[number] for number in numbers], truncation=True, max_length=settings.max_length
        )
        columns = {"input_ids": encoded["input_ids"]}
        if isinstance(texts, ParallelRows):
            columns["translation"] = [first + number for number in numbers]
        rows[language] = Dataset.from_dict(columns)
        first += len(own)
    return rows


def _objective(
    settings: ContinuedPretraining,
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Language, Sequence[str]] | ParallelRows,
) -> tuple[PreTrainedModel, Any]:
    """The model whose loss is the objective, and what makes its batches."""
    if not isinstance(texts, ParallelRows):
        collator = transformers.DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=settings.mlm_probability
        )
        return encoder, collator

    ranker = TranslationRanker(
        encoder.base_model,
        encoder.base_model_prefix,
        temperature=settings.temperature,
        candidates=settings.batch_size,
    )
    # In the order in which `_rows` numbers them.
    table = torch.cat([texts.vectors[language] for language in texts.texts])
    return ranker, TranslationCollator(tokenizer, table)


def _with_adapters(
    base: PreTrainedModel,
    method: Method,
    settings: ContinuedPretraining,
    languages: Sequence[Language],
) -> LanguageAdapterModel:
    return get_language_model(
        base,
        method.adapter_config(settings.bottleneck_size),
        languages,
        shared=settings.trained,
        share_adapter=method.share_adapter,
    )


def _as_masked_model(
    model: LanguageAdapterModel, start: str | Path, method: Method, settings: ContinuedPretraining
) -> LanguageAdapterModel:
    """The masked language model with what was trained.

    It is what fine-tuning starts from. Without the head of a ranker, which has no parameters, all
    names are the same.
    """
    if not isinstance(model.base_model, TranslationRanker):
        return model

    encoder = transformers.AutoModelForMaskedLM.from_pretrained(str(start))
    masked = _with_adapters(encoder, method, settings, model.languages)
    unknown = masked.load_state_dict(model.cpu().state_dict(), strict=False).unexpected_keys
    if unknown:
        raise ConfigurationError(
            "The body of an encoder must have the same parameters in all of its models. Found"
            f" {unknown[0]!r} in one model of `{type(encoder).__name__}` and not in another. Use"
            " the objective `masked_words`."
        )
    return masked

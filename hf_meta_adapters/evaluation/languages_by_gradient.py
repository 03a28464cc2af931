"""Which languages of a model pull its adapters in the direction of a language that it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language, Rows
from hf_meta_adapters.backends.abilities import ChecksMeans
from hf_meta_adapters.diagnostics import gradient_conflict
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    check_known_language,
)
from hf_meta_adapters.evaluation._evaluate import saved_tokenizer
from hf_meta_adapters.evaluation._forward import Feature, config_value, text_logits
from hf_meta_adapters.evaluation._language_modeling import LanguageModeling
from hf_meta_adapters.evaluation._own_adapters import check_own_adapters
from hf_meta_adapters.evaluation.task import Task, get_task
from hf_meta_adapters.meta.task_vectors import weighted_mean
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["languages_by_gradient"]


def languages_by_gradient(
    model: LanguageAdapterModel,
    task: Task | str,
    dataset: Rows,
    family: Mapping[Language, Rows],
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    device: torch.device | str | None = None,
) -> dict[Language, float]:
    """Compute cos(∇L_new(θ, φ̄), ∇L_l(θ, φ̄)) for each language l, the best first.

    Gradients can be compared where they are taken at one place: φ̄ = 1/L Σ_l φ_l, the mean of the
    adapters, with respect to the parameters of an adapter. From there, a step that suits the text
    of l suits that of the new language where the cosine is large. It is the measure of
    `gradient_conflict`, on texts with the fixed masks that `nearest_languages` scores. The model
    stays as it is.

    Args:
        model: The model.
        task: `"masked_lm"` or `"causal_lm"`.
        dataset: Texts of the new language; some dozens will do.
        family: Language → texts of it, about as many; of two or more languages of the model, which
            are compared.
        processing_class: The tokenizer; by default the one that was saved with the model.
        batch_size: Rows per pass.
        max_length: Tokens in a row; by default what the tokenizer allows, at most 512.
        device: Where to move the model first; by default it stays where it is.

    Returns:
        Language → cosine.

    Raises:
        LanguageError: If the model does not have a language of `family`.
        ConfigurationError: If the languages have no adapters of their own, or these are frozen or
            have no mean, or the task is not one of language models.
        DataError: If a dataset is empty, or lacks text, or `family` has fewer than two.

    Example:
        >>> from hf_meta_adapters.evaluation.languages_by_gradient import languages_by_gradient
        >>> def start(model, texts, texts_of_family):
        ...     found = languages_by_gradient(model, "masked_lm", texts, texts_of_family)
        ...     model.add_language("yo", copy_from=next(iter(found)))
    """
    if isinstance(task, str):
        task = get_task(task)
    _check_task(task)
    languages = _check(model, family)

    tokenizer = processing_class or saved_tokenizer(model)
    if device is not None:
        model.to(device)

    # a key that no language of the model has; masks depend on it as on any other
    new = "x-new"
    while new in family:
        new = f"{new}-new"
    padding = config_value(model, "pad_token_id") or 0
    batches: dict[Language, list[Batch]] = {}
    for language, rows in {new: dataset, **family}.items():
        features = task.features(rows, tokenizer, language=language, max_length=max_length)
        batches[language] = list(_batches(features, batch_size, padding))

    # two sums of gradients for each language: their cosines need no more
    with _at_mean(model, languages) as names:
        conflict = gradient_conflict(
            _InOneLanguage(model, languages[0]),
            batches,
            parameters=[f"model.{name}" for name in names],
            loss_function=_loss,
            blocks=2,
            resamples=0,
        )
    cosines = dict(zip(languages, conflict.matrix[0, 1:].tolist(), strict=True))
    return dict(sorted(cosines.items(), key=lambda entry: -entry[1]))


class _InOneLanguage(nn.Module):
    """A model in one of its languages, whatever the language of a batch."""

    def __init__(self, model: LanguageAdapterModel, language: Language) -> None:
        super().__init__()
        self.model = model
        self._language = language

    def forward(self, **inputs: Any) -> object:
        return self.model(language=self._language, **inputs)


@contextmanager
def _at_mean(model: LanguageAdapterModel, languages: Sequence[Language]) -> Iterator[list[str]]:
    """Put the mean of the adapters in the place of the first one, whose names it gives."""
    adapters = [model.language_parameters(language) for language in languages]
    kept = {name: tensor.detach().clone() for name, tensor in adapters[0].items()}

    with torch.no_grad():
        several = [adapter.values() for adapter in adapters]
        for tensor, *others in zip(*several, strict=True):
            tensor.copy_(weighted_mean([tensor, *others], [1.0] * len(languages)))
    try:
        yield list(kept)
    finally:
        with torch.no_grad():
            for name, tensor in adapters[0].items():
                tensor.copy_(kept[name])


def _check_task(task: Task) -> None:
    if not isinstance(task, LanguageModeling):
        raise ConfigurationError(
            f"Gradients are compared on text without labels. Found the task {task.name!r}. Use"
            " 'masked_lm' or 'causal_lm'."
        )


def _check(model: LanguageAdapterModel, family: Mapping[Language, Rows]) -> list[Language]:
    check_own_adapters(model)
    languages = [check_known_language(language, model.languages) for language in family]
    if len(languages) < 2:
        raise DataError(
            f"Languages are ranked by texts of at least two. Found {languages}. Pass for example"
            ' `family={"en": rows, "sw": rows}`.'
        )

    frozen = [language for language in languages if not model.language_parameters(language)]
    if frozen:
        raise ConfigurationError(
            "Gradients need parameters that are trained. Found frozen adapters of"
            f" {frozen}. Call `model.train_only(*model.languages, shared=True)` first."
        )
    if isinstance(model.backend, ChecksMeans):
        model.backend.check_mean()
    return languages


def _batches(features: Sequence[Feature], batch_size: int, padding: int) -> Iterator[Batch]:
    """Yield rows and their targets as tensors, in the order of the texts."""
    fillers = {"input_ids": padding, "attention_mask": 0, "targets": IGNORED_LABEL}
    for start in range(0, len(features), batch_size):
        rows = features[start : start + batch_size]
        length = max(len(row["input_ids"]) for row in rows)
        yield {
            name: torch.tensor(
                [[*row[name], *[filler] * (length - len(row[name]))] for row in rows]
            )
            for name, filler in fillers.items()
        }


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy over the targets, each of which stands where its logits are."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
    rows = [{"input_ids": row} for row in inputs["input_ids"]]
    logits = text_logits(model(**inputs), "logits", 3, rows)
    return cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

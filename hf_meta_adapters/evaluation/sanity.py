"""Signs of a model put together wrongly: a head that stood still, adapters that do nothing, labels out of place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._forward import Feature, run
from hf_meta_adapters.evaluation._majority import majority_baseline
from hf_meta_adapters.evaluation._scores import LanguageScores
from hf_meta_adapters.evaluation._task import Task
from hf_meta_adapters.hub.base_model import body_name

__all__ = [
    "MiswiringWarning",
    "check_moved",
    "head_of",
    "warn_if_adapters_agree",
    "warn_if_not_learned",
]


class MiswiringWarning(UserWarning):
    """A trained model that shows a sign of having been put together wrongly."""


def head_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the parameters of a transformers model that are outside its body, by name."""
    body = body_name(model)
    outside = {
        name: value
        for name, value in model.named_parameters()
        # PEFT keeps the head as it was beside the one that a task adapter trains
        if not (body and name.startswith(f"{body}.")) and ".original_module." not in name
    }
    return {name: value.detach().clone() for name, value in outside.items()}


def check_moved(before: Mapping[str, Tensor], model: nn.Module) -> None:
    """Check that training has moved the head.

    Args:
        before: What `head_of` gave before training.
        model: The same transformers model after it.

    Raises:
        ConfigurationError: If a parameter of the head is what it was.
    """
    after = dict(model.named_parameters())
    if still := [
        name
        for name, value in before.items()
        if torch.equal(value, after[name].detach().to(value.device))
    ]:
        raise ConfigurationError(
            f"Training must move every parameter of the head. Found {still} as before. Look at what"
            " is trained, at the learning rate, and for labels that are all ignored (-100)."
        )


def warn_if_adapters_agree(
    model: nn.Module, features: Sequence[Feature], source: Language, others: Sequence[Language]
) -> None:
    """Warn of languages whose adapters give the very same output as that of the source language.

    Args:
        model: A model with languages.
        features: A few rows.
        source: The language that was trained on.
        others: Languages that are to be scored.
    """

    def outputs(language: Language) -> list[Tensor]:
        def keep(rows: Sequence[Feature], output: object) -> list[Tensor]:
            first: Tensor = output.to_tuple()[0] if hasattr(output, "to_tuple") else output  # type: ignore[assignment]
            return [*first.cpu()]

        return run(model, features, keep, language=language, batch_size=len(features))

    expected = outputs(source)
    same = [
        key
        for key in others
        if key != source
        and all(torch.equal(a, b) for a, b in zip(expected, outputs(key), strict=True))
    ]
    if same:
        warnings.warn(
            f"The adapters of {same} give the same output as that of {source!r}: they were never"
            " trained, or not loaded. Zero-shot scores then say nothing about the adapters.",
            MiswiringWarning,
            stacklevel=3,
        )


def warn_if_not_learned(scores: LanguageScores, task: Task, train: Rows) -> None:
    """Warn if a model is not better than the majority baseline on the very examples that it was trained on.

    Args:
        scores: Its scores on them.
        task: The task.
        train: The examples.
    """
    (language,) = scores.languages
    counted = bool(task.labels)
    floor = (
        majority_baseline(task, train, {language: train})[language][task.metric] if counted else 0.0
    )
    if scores[language][task.metric] <= floor:
        warnings.warn(
            f"The model has a {task.metric} of {scores[language][task.metric]:.3f} on its own"
            f" training examples in {language!r}, where the most frequent label gives {floor:.3f}:"
            " it has not learned the task. Train longer or with a higher learning rate; if that"
            " changes nothing, look at the alignment of labels and words.",
            MiswiringWarning,
            stacklevel=3,
        )

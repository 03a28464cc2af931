"""Signs of a model put together wrongly: a head that did not move, adapters that do nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_meta_adapters._typing import IGNORED_LABEL, Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._forward import Feature, run_model
from hf_meta_adapters.evaluation._language_scores import LanguageScores
from hf_meta_adapters.evaluation._majority_baseline import majority_baseline
from hf_meta_adapters.evaluation.task import Task
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
    """Return a copy of the parameters outside the body of a transformers model, by name."""
    body = body_name(model)

    head = {}
    for name, value in model.named_parameters():
        in_body = body != "" and name.startswith(f"{body}.")
        # PEFT keeps the original head next to the one that a task adapter trains; it never moves.
        if not in_body and ".original_module." not in name:
            head[name] = value.detach().clone()

    return head


def check_moved(before: Mapping[str, Tensor], model: nn.Module) -> None:
    """Check that training has moved the head.

    Args:
        before: What `head_of` gave before training.
        model: The same transformers model after it.

    Raises:
        ConfigurationError: If a parameter of the head has not changed.
    """
    after = dict(model.named_parameters())

    # Bit by bit: a step of the optimizer, however small, changes some entry of every parameter.
    unmoved = []
    for name, value in before.items():
        if torch.equal(value, after[name].detach().to(value.device)):
            unmoved.append(name)

    if unmoved:
        raise ConfigurationError(
            f"Training must move every parameter of the head. Found {unmoved} unchanged. Check what"
            f" is trained, the learning rate, and whether all labels are ignored ({IGNORED_LABEL})."
        )


def warn_if_adapters_agree(
    model: nn.Module, features: Sequence[Feature], source: Language, others: Sequence[Language]
) -> None:
    """Warn of languages whose adapters give the very same output as that of the source language.

    Args:
        model: A model with languages.
        features: A few rows.
        source: The language that was trained on.
        others: Languages to be scored.
    """
    expected = _outputs(model, features, source)

    same = []
    for language in others:
        if language != source:
            outputs = _outputs(model, features, language)
            if all(torch.equal(a, b) for a, b in zip(expected, outputs, strict=True)):
                same.append(language)

    if same:
        warnings.warn(
            f"The adapters of {same} give the same output as that of {source!r}: they were never"
            " trained, or not loaded. Zero-shot scores then say nothing about the adapters.",
            MiswiringWarning,
            stacklevel=3,
        )


def _outputs(model: nn.Module, features: Sequence[Feature], language: Language) -> list[Tensor]:
    """Return the first output of the model for each row, in one batch."""

    def first_output(rows: Sequence[Feature], output: object) -> list[Tensor]:
        if isinstance(output, ModelOutput):
            output = output.to_tuple()[0]

        return [*cast(Tensor, output).cpu()]

    # One batch for every language: equal adapters then give equal bits.
    return run_model(model, features, first_output, language=language, batch_size=len(features))


def warn_if_not_learned(scores: LanguageScores, task: Task, train: Rows) -> None:
    """Warn if a model is not better than the majority baseline on its own training examples.

    Args:
        scores: Its scores on them.
        task: The task.
        train: The examples.
    """
    (language,) = scores.languages
    score = scores[language][task.metric]

    floor = 0.0  # of a task without labels to count, such as question answering
    if task.labels:
        baseline = majority_baseline(task, train, {language: train})
        floor = baseline[language][task.metric]

    if score <= floor:
        warnings.warn(
            f"The model has a {task.metric} of {score:.3f} on its own training examples in"
            f" {language!r}, where the most frequent label gives {floor:.3f}: it has not learned"
            " the task. Train longer or with a higher learning rate; if that changes nothing, check"
            " the alignment of labels and words.",
            MiswiringWarning,
            stacklevel=3,
        )

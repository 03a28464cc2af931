"""What makes a score meaningless, found before it is believed: another head, shifted labels, one class everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._task import Task

__all__ = ["ConstantPredictionWarning", "check_head", "constant_class", "warn_if_constant"]


class ConstantPredictionWarning(UserWarning):
    """A model that predicts one class everywhere: its head was hardly trained, or is not the one that was trained."""


def check_head(model: nn.Module, task: Task) -> None:
    """Check that the classes of the model's head are those of the task, in the same order.

    Args:
        model: A transformers model, or one wrapped around it; without `config` nothing is checked.
        task: The task.

    Raises:
        ConfigurationError: If they are not.
    """
    config: Any = getattr(model, "config", None)
    names = getattr(config, "id2label", None)
    if names is None or not task.labels:
        return
    found = {int(index): name for index, name in names.items()}
    if found != task.id2label:
        raise ConfigurationError(
            "The head of the model must have the classes of the task, in the same order:"
            f" {task.id2label}. Found {found}. Where the model is made, write"
            " `id2label=task.id2label, label2id=task.label2id` with `task ="
            f" get_task({task.name!r})`; where it was trained in this very order without the names,"
            " set `model.config.id2label = task.id2label`."
        )


def constant_class(predicted: Sequence[Hashable], expected: Sequence[Hashable]) -> Hashable | None:
    """Return the only class that was predicted if the references hold several, else `None`.

    Example:
        >>> constant_class(["O", "O"], ["O", "B-PER"])
        'O'
    """
    classes = set(predicted)
    return next(iter(classes)) if len(classes) == 1 and len(set(expected)) > 1 else None


def warn_if_constant(prediction: Hashable | None, language: Language, task: Task) -> None:
    """Warn that `prediction` was made everywhere in `language`, if it is not `None`."""
    if prediction is not None:
        warnings.warn(
            f"The model predicts {prediction!r} everywhere in language {language!r} ({task.name}),"
            " though the references hold more. Check that the head was trained and loaded, and"
            " that this language's adapter was trained under it.",
            ConstantPredictionWarning,
            stacklevel=3,
        )

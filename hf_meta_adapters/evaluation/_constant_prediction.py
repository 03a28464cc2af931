"""A sign that a score is meaningless: the model predicts one class everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

from hf_meta_adapters._typing import Language

__all__ = ["ConstantPredictionWarning", "constant_class", "warn_if_constant"]


class ConstantPredictionWarning(UserWarning):
    """A model predicts one class everywhere: its head was hardly trained, or not loaded."""


def constant_class(predicted: Sequence[Hashable], expected: Sequence[Hashable]) -> Hashable | None:
    """Return the only class that was predicted if the references hold several, else `None`.

    Example:
        >>> constant_class(["O", "O"], ["O", "B-PER"])
        'O'
    """
    classes = set(predicted)

    # Where the references hold one class as well, predicting it everywhere is right.
    if len(classes) == 1 and len(set(expected)) > 1:
        return classes.pop()

    return None


def warn_if_constant(prediction: Hashable | None, language: Language, task: str) -> None:
    """Warn that `prediction` was made everywhere in `language`, if it is not `None`."""
    if prediction is not None:
        warnings.warn(
            f"The model predicts {prediction!r} everywhere in language {language!r} ({task}),"
            " although the references hold more classes. Check that the head was trained and"
            " loaded, and that the adapter of this language was trained with it.",
            ConstantPredictionWarning,
            stacklevel=3,
        )

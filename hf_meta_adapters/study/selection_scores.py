"""Early stopping after the fact: scores on selection text in a run, and the weights of the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation.language_model_score import bits_per_character
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["SelectionScores", "score_languages"]

Features: TypeAlias = Mapping[Language, Sequence[Any]]
"""Language → rows of `masked_lm_features`."""


def score_languages(model: LanguageAdapterModel, features: Features) -> dict[Language, float]:
    """Compute the bits per masked character of each language.

    Args:
        model: The model.
        features: The rows of each language.

    Returns:
        Language → bits per character.
    """
    scores = {}
    for language, rows in features.items():
        score = bits_per_character(model, rows, language)
        scores[language] = round(score.bits_per_character, 6)
    return scores


class SelectionScores(TrainerCallback):
    """Scores the model every few steps on selection text, and keeps the weights of the best step.

    One run then has the model of its last step and the one of early stopping.

    Args:
        model: The model that is trained.
        selection: The selection rows of each language.
        every: The number of steps between scores; the last step always has one.
    """

    def __init__(self, model: LanguageAdapterModel, selection: Features, *, every: int) -> None:
        self._model = model
        self._selection = selection
        self._every = every
        self._best: dict[str, Tensor] = {}

        self.means: dict[int, float] = {}
        """Step → mean over languages of the scores on selection text."""
        self.best_step = 0
        """The step with the least mean."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Score the model, if it is time to.

        Args:
            args: The arguments of the Trainer.
            state: Its state.
            control: Its control.
            **kwargs: The rest.
        """
        step = state.global_step
        if step % self._every and step < state.max_steps:
            return

        scores = score_languages(self._model, self._selection)
        self.means[step] = round(sum(scores.values()) / len(scores), 6)

        if self.means[step] == min(self.means.values()):
            self.best_step = step
            self._best = {name: one.detach().clone() for name, one in self._weights()}

    def restore_best(self) -> None:
        """Give the model the weights of the best step."""
        with torch.no_grad():
            for name, one in self._weights():
                one.copy_(self._best[name])

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        return self._model.named_parameters()

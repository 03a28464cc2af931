"""Steps with `lookahead="next"` on one batch, at one place: what a step of it costs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch

from hf_meta_adapters._typing import Autocast, Batch, Language
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.next_step import next_step

__all__ = ["NextSteps"]


class NextSteps:
    """Calls `next_step` again and again, each time with what the call before has kept.

    The optimizer steps after each call, at so small a rate that θ stays where it is. Its time
    belongs to the step: it computes the derivative of the step that it takes.

    Args:
        model: The model.
        batches: Language → batch, the same in every step.
        loss_function: Evaluates the loss.
        mixed_rows: The share of the rows of which the mixed product is taken.
        autocast: As for `next_step`.
        languages_per_pass: As for `next_step`.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        batches: Mapping[Language, Batch],
        loss_function: LossFunction,
        mixed_rows: float,
        *,
        autocast: Autocast = nullcontext,
        languages_per_pass: int = 1,
    ) -> None:
        self._model = model
        self._batches = batches
        self._loss_function = loss_function
        self._mixed_rows = mixed_rows
        self._autocast = autocast
        self._languages_per_pass = languages_per_pass

        # Fused, as is the default of `transformers.TrainingArguments`.
        theta = model.shared_parameters().values()
        self._optimizer = torch.optim.AdamW(theta, lr=1e-8, fused=True)
        self._kept: KeptStep | None = None

    def __call__(self) -> None:
        """Take a step."""
        found = next_step(
            self._model,
            self._batches,
            optimizer=self._optimizer,
            kept=self._kept,
            loss_function=self._loss_function,
            autocast=self._autocast,
            languages_per_pass=self._languages_per_pass,
            finite_difference_scheme="one_sided",
            mixed_rows=self._mixed_rows,
        )

        for name, parameter in self._model.shared_parameters().items():
            parameter.grad = found.shared.get(name)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._kept = found.kept

"""Steps with `lookahead="next"` on one batch, at one place: what a step of it costs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from hf_meta_adapters._typing import Autocast, Batch, Language
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.options import MetaOptionKeywords
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.next_step import next_step

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NextSteps"]


class NextSteps:
    """Calls `next_step` again and again, each time with what the call before has kept.

    The optimizer steps after each call, at so small a rate that θ stays where it is. Its time
    belongs to the step: it computes the derivative of the step that it takes.

    Args:
        model: The model.
        batches: Language → batch, the same in every step.
        loss_function: Evaluates the loss.
        autocast: As for `next_step`.
        languages_per_pass: As for `next_step`.
        **options: As for `next_step`.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        batches: Mapping[Language, Batch],
        loss_function: LossFunction,
        *,
        autocast: Autocast = nullcontext,
        languages_per_pass: int = 1,
        **options: Unpack[MetaOptionKeywords],
    ) -> None:
        self._model = model
        self._batches = batches
        self._loss_function = loss_function
        self._autocast = autocast
        self._languages_per_pass = languages_per_pass
        self._options: MetaOptionKeywords = {"finite_difference_scheme": "one_sided", **options}

        # Fused, as is the default of `transformers.TrainingArguments`.
        theta = model.shared_parameters().values()
        self._optimizer = torch.optim.AdamW(theta, lr=1e-8, fused=True)
        self._kept: KeptStep | None = None

    def __call__(self, seed: int = 0) -> None:
        """Take a step.

        Args:
            seed: As for `next_step`.
        """
        found = next_step(
            self._model,
            self._batches,
            optimizer=self._optimizer,
            kept=self._kept,
            loss_function=self._loss_function,
            autocast=self._autocast,
            languages_per_pass=self._languages_per_pass,
            seed=seed,
            **self._options,
        )

        for name, parameter in self._model.shared_parameters().items():
            parameter.grad = found.shared.get(name)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._kept = found.kept

"""The kept step of `next_step` as batches and tensors to be saved, and made anew from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._batch_losses import train_losses
from hf_meta_adapters.steps.language_groups import LanguageGroups
from hf_meta_adapters.steps.step_context import StepContext


@dataclass(frozen=True)
class KeptState:
    """Everything of a kept step that a later process needs.

    Args:
        batches: The micro-batches of each language, of this process.
        own: The tensors that this process has alone, by name.
        common: The tensors that all processes have alike, unless parameters are sharded.
        share: The weight of each pass in the gradient of θ.
        mixed_rows: The share of the rows that the sample has; `None` where it was not recorded.
        is_compared: Whether all rows were kept, and the sample beside.
        languages_per_pass: How many languages shared a pass; `None` where it was not recorded.
    """

    batches: Mapping[Language, Sequence[Batch]]
    own: Mapping[str, Tensor]
    common: Mapping[str, Tensor]
    share: float
    mixed_rows: float | None = None
    is_compared: bool = False
    languages_per_pass: int | None = None

    @classmethod
    def of(
        cls,
        kept: KeptStep,
        batches: Mapping[Language, Sequence[Batch]],
        mixed_rows: float | None = None,
        languages_per_pass: int | None = None,
    ) -> KeptState:
        """The state of a kept step that the optimizer has taken.

        Args:
            kept: The step.
            batches: The micro-batches on which it was taken, of this process.
            mixed_rows: The share of the rows that its sample has.
            languages_per_pass: How many languages shared a pass.

        Returns:
            The state.
        """
        if languages_per_pass in (None, 1):
            # Without a product, as where some languages are drawn, nothing of a language is kept.
            batches = {key: several for key, several in batches.items() if key in kept.passes}

        own, common = kept.state()
        is_compared = kept.of_samples() is not None
        how = mixed_rows, is_compared, languages_per_pass
        return cls(batches, own, common, kept.share, *how)

    def restored(
        self,
        model: LanguageAdapterModel,
        context: StepContext,
        languages_per_pass: int,
        mixed_rows: float = 1.0,
    ) -> KeptStep:
        """The kept step. All processes call it together.

        Args:
            model: The model, at the parameters that the step led to.
            context: How a batch is evaluated.
            languages_per_pass: As for `next_step`, where the state has not recorded it.
            mixed_rows: Likewise.

        Returns:
            The step.
        """
        device = model.device
        batches: dict[Language, list[Batch]] = {}
        for key, several in self.batches.items():
            batches[key] = [_on_device(batch, device) for batch in several]

        state = {name: entry.to(device) for name, entry in {**self.own, **self.common}.items()}
        size = self.languages_per_pass or languages_per_pass
        if size == 1:
            rebuilt = train_losses(model, batches, context, self.mixed_rows or mixed_rows)
            return KeptStep.of_state(rebuilt, state, self.share, is_compared=self.is_compared)

        groups = LanguageGroups(model, list(batches), size, context)
        losses: dict[str, list[Loss]] = {}
        for name, of_group in groups.losses(batches).items():
            losses[name] = list(of_group)

        kept = KeptStep.of_state(losses, state, self.share)
        kept.groups = groups.members
        return kept


def _on_device(batch: Batch, device: torch.device) -> Batch:
    moved: dict[str, object] = {}
    for name, value in batch.items():
        moved[name] = value
        if isinstance(value, Tensor):
            moved[name] = value.to(device)
    return moved

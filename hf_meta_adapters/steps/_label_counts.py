"""How many labels a language has, in each micro-batch and on all processes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.anatomy.passes import device_of
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.counted_labels import counted
from hf_meta_adapters.steps.label_shift import first_label_counts, has_places
from hf_meta_adapters.steps.losses import whole_loss
from hf_meta_adapters.steps.step_context import StepContext


@dataclass(frozen=True)
class LabelCounts:
    """The labels of a role.

    Args:
        counts: The labels in each micro-batch of this process, by language.
        totals: Those in all micro-batches of all processes, by language.
    """

    counts: dict[Language, list[int]]
    totals: dict[Language, int]

    @property
    def languages(self) -> list[Language]:
        """The languages that have a label; the same on all processes."""
        return [key for key, total in self.totals.items() if total > 0]


def label_counts(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Sequence[Batch]],
    context: StepContext,
    *,
    exact: bool = True,
) -> LabelCounts:
    """Count the labels of every language.

    Args:
        model: The model.
        batches: The micro-batches of each language.
        context: How a batch is evaluated.
        exact: Whether the labels of a language that has a single batch must be counted exactly, not
            only whether it has any.

    Returns:
        The counts.
    """
    numbers = {key: [counted(batch) for batch in own] for key, own in batches.items()}

    # On several processes always, as a pass of one process alone would leave the others waiting.
    matters = context.all_reduce is not None
    for own in numbers.values():
        is_divided = exact or len(own) > 1
        matters |= any(number.first and (is_divided or not number.others) for number in own)

    first_counts = not matters or _first_counts(model, batches, context)

    counts: dict[Language, list[int]] = {}
    for key, own in numbers.items():
        counts[key] = [number.others + number.first * first_counts for number in own]

    return LabelCounts(counts, summed_counts(model, counts, context))


def _first_counts(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Sequence[Batch]],
    context: StepContext,
) -> bool:
    """Whether the first label of a row counts in the loss of the step."""
    for own in batches.values():
        for batch in own:
            if has_places(batch):
                with context.autocast():
                    return first_label_counts(model, batch, whole_loss(context.loss_function))
    return True


def summed_counts(
    model: LanguageAdapterModel, counts: Mapping[Language, Sequence[int]], context: StepContext
) -> dict[Language, int]:
    """Sum counts over the micro-batches of all processes.

    Args:
        model: The model.
        counts: The counts of each micro-batch of this process, by language.
        context: How processes sum.

    Returns:
        The sums, by language.
    """
    totals = [sum(own) for own in counts.values()]

    # one message for all languages
    if context.all_reduce is not None:
        message = torch.tensor(totals, device=device_of(model))
        context.all_reduce(message)
        totals = message.tolist()

    return dict(zip(counts, totals, strict=True))

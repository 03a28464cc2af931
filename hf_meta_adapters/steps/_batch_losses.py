"""Losses of batches as functions without arguments, which add up to the loss of one large batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._label_counts import label_counts, total_counts
from hf_meta_adapters.steps.losses import Batches, micro_batches, model_loss
from hf_meta_adapters.steps.step_context import StepContext


def batch_losses(
    model: LanguageAdapterModel, batches: Mapping[Language, Batches], context: StepContext
) -> dict[Language, list[Loss]]:
    """A loss per language and micro-batch; those of a language sum to the mean over all its labels.

    A model's loss is the mean over the labels of its batch. A micro-batch with n of the N labels
    that all micro-batches of all processes have is therefore weighted by n/N.

    Args:
        model: The model.
        batches: One batch or several for each language.
        context: How a batch is evaluated.

    Returns:
        The losses.
    """
    listed = {key: micro_batches(language_batches) for key, language_batches in batches.items()}
    shares = _label_shares(model, listed, context)

    losses: dict[Language, list[Loss]] = {}
    for key, language_batches in listed.items():
        losses[key] = [
            _loss(model, key, batch, share, context)
            for batch, share in zip(language_batches, shares[key], strict=True)
        ]

    return losses


def _label_shares(
    model: LanguageAdapterModel, batches: Mapping[Language, Sequence[Batch]], context: StepContext
) -> dict[Language, list[tuple[Tensor, Tensor] | None]]:
    """The n and N of every micro-batch, 0-d; `None` where each language has a single batch."""
    all_reduce = context.all_reduce
    if all_reduce is None and all(len(batch_list) == 1 for batch_list in batches.values()):
        return {key: [None] for key in batches}

    counts = label_counts(model, batches)
    totals = total_counts(counts, all_reduce)
    return {key: [(count, totals[key]) for count in counts[key]] for key in counts}


def _loss(
    model: LanguageAdapterModel,
    key: Language,
    batch: Batch,
    share: tuple[Tensor, Tensor] | None,
    context: StepContext,
) -> Loss:
    """The loss of one micro-batch in its language, weighted by its share of the labels."""
    evaluate = context.loss_function or model_loss

    def value() -> Tensor:
        with model.use_language(key), context.autocast():
            mean = evaluate(model, batch)

        if share is None:
            return mean

        count, total = share
        # at least in float32: half precision rounds n and N, which may be in the thousands
        weight = count.to(torch.promote_types(mean.dtype, torch.float32)) / total

        # The mean over no labels is NaN; beside micro-batches with labels, it counts for nothing.
        return torch.where(weight == 0, torch.zeros_like(mean), mean * weight.to(mean.dtype))

    return value

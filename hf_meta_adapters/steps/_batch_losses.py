"""Losses of batches as functions without arguments, which add up to the loss of one large batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._label_counts import label_counts
from hf_meta_adapters.steps.losses import Batches, micro_batches, model_loss
from hf_meta_adapters.steps.step_context import StepContext


def batch_losses(
    model: LanguageAdapterModel, batches: Mapping[Language, Batches], context: StepContext
) -> dict[Language, list[Loss]]:
    """A loss per language and micro-batch; those of a language sum to the mean over all its labels.

    A model's loss is the mean over the labels of its batch. A micro-batch with n of the N labels
    that all micro-batches of all processes have is therefore weighted by n/N. A language without
    any label has no loss: an empty list.

    Args:
        model: The model.
        batches: One batch or several for each language.
        context: How a batch is evaluated.

    Returns:
        The losses.
    """
    listed = {key: micro_batches(language_batches) for key, language_batches in batches.items()}
    labels = label_counts(model, listed, context, exact=False)

    losses: dict[Language, list[Loss]] = {key: [] for key in listed}
    for key in labels.languages:
        for batch, count in zip(listed[key], labels.counts[key], strict=True):
            # On several processes all take the same passes, even if some have nothing to add.
            if count or context.all_reduce is not None:
                share = count, labels.totals[key]
                losses[key].append(_loss(model, key, batch, share, context))

    return losses


def _loss(
    model: LanguageAdapterModel,
    key: Language,
    batch: Batch,
    share: tuple[int, int],
    context: StepContext,
) -> Loss:
    """The loss of one micro-batch in its language, weighted by its share n/N of the labels."""
    evaluate = context.loss_function or model_loss

    def value() -> Tensor:
        with model.use_language(key), context.autocast():
            mean = evaluate(model, batch)

        count, total = share
        if count == total:
            return mean

        # The mean over no labels is NaN; beside micro-batches with labels, it counts for nothing.
        if count == 0:
            nowhere = torch.zeros_like(mean, dtype=torch.bool)
            return torch.where(nowhere, mean, torch.zeros_like(mean))

        # at least in float32: half precision rounds n and N, which may be in the thousands
        precision = torch.promote_types(mean.dtype, torch.float32)
        weight = torch.tensor(count, dtype=precision) / total
        return mean * weight.to(mean.dtype)

    return value

"""Losses of batches as functions without arguments, which add up to the loss of one large batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.meta.sampled_losses import CommonLoss, SampledLosses
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._common_losses import common_losses
from hf_meta_adapters.steps._divided_batch import divided_batch
from hf_meta_adapters.steps._label_counts import label_counts, summed_counts
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
        losses[key] = _losses(
            model, key, listed[key], labels.counts[key], labels.totals[key], context
        )

    return losses


def _sampled_losses(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Batches],
    context: StepContext,
    share: float,
) -> dict[Language, Sequence[Loss]]:
    """The same losses, with a sample of the rows of each language for its mixed products.

    Args:
        model: The model.
        batches: One batch or several for each language.
        context: How a batch is evaluated.
        share: The share of the rows that the sample has.

    Returns:
        The losses: `SampledLosses`, or an empty list.
    """
    samples: dict[Language, list[Batch]] = {}
    rests: dict[Language, list[Batch | None]] = {}
    for key, language_batches in batches.items():
        parts = [divided_batch(batch, share) for batch in micro_batches(language_batches)]
        samples[key] = [sample for sample, _ in parts]
        rests[key] = [rest for _, rest in parts]

    both = {key: [*samples[key], *_present(rests[key])] for key in samples}
    labels = label_counts(model, both, context, exact=False)
    counts = {key: labels.counts[key][: len(samples[key])] for key in samples}
    sampled = summed_counts(model, counts, context)

    losses: dict[Language, Sequence[Loss]] = {key: [] for key in samples}
    for key in labels.languages:
        total, own_counts = labels.totals[key], labels.counts[key][len(samples[key]) :]
        sample = _losses(model, key, samples[key], counts[key], total, context)
        rest = _losses(model, key, _present(rests[key]), own_counts, total, context)

        # A sample without any label says nothing: all rows take its place.
        losses[key] = SampledLosses([*sample, *rest], (), 1.0)
        if sampled[key] > 0:
            common: list[CommonLoss] = []
            if None not in rests[key] and all(counts[key]) and all(own_counts):
                whole = micro_batches(batches[key])
                sums = [sum(pair) for pair in zip(counts[key], own_counts, strict=True)]
                of_whole = _losses(model, key, whole, sums, total, context)
                common = common_losses(model, key, whole, samples[key], of_whole)
            losses[key] = SampledLosses(sample, rest, total / sampled[key], common)

    return losses


def train_losses(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Batches],
    context: StepContext,
    mixed_rows: float,
) -> Mapping[Language, Sequence[Loss]]:
    """The losses of training batches, with a sample where mixed products are taken of a share."""
    if mixed_rows == 1:
        return batch_losses(model, batches, context)
    return _sampled_losses(model, batches, context, mixed_rows)


def _losses(
    model: LanguageAdapterModel,
    key: Language,
    batches: Sequence[Batch],
    counts: Sequence[int],
    total: int,
    context: StepContext,
) -> list[Loss]:
    """The losses of micro-batches that have these numbers of all labels of a language."""
    losses = []
    for batch, count in zip(batches, counts, strict=True):
        # On several processes all take the same passes, even if some have nothing to add.
        if count or context.all_reduce is not None:
            losses.append(_loss(model, key, batch, (count, total), context))

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


def _present(batches: Sequence[Batch | None]) -> list[Batch]:
    return [batch for batch in batches if batch is not None]

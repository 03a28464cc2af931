"""Losses of batches as functions without arguments; micro-batches and processes add up to one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

LossFunction: TypeAlias = Callable[[Any, Batch], Tensor]
IGNORED = -100


def batch_losses(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Batch | Sequence[Batch]],
    *,
    loss_function: LossFunction | None,
    autocast: Callable[[], AbstractContextManager[Any]],
    all_reduce: Callable[[Tensor], None] | None,
) -> dict[Language, list[Loss]]:
    """A function per language and micro-batch; those of one language sum to the mean loss over all its labels.

    A model's loss is the mean over the labels of its batch. A micro-batch with n of the N labels
    that all micro-batches of all processes have is therefore weighted by n/N.

    Args:
        model: The model.
        batches: One batch or several for each language.
        loss_function: Evaluates a batch; `None` takes the loss that the model returns.
        autocast: Makes the context of an evaluation.
        all_reduce: Sums over processes in place, on several.

    Returns:
        The losses.
    """
    several = {
        key: [given] if isinstance(given, Mapping) else list(given)
        for key, given in batches.items()
    }
    counts = _counts(model, several, all_reduce)
    evaluate = loss_function or model_loss

    def loss(key: Language, batch: Batch, counts: tuple[Tensor, Tensor] | None) -> Loss:
        def value() -> Tensor:
            with model.use_language(key), autocast():
                found = evaluate(model, batch)
            if counts is None:
                return found
            share = counts[0].to(torch.promote_types(found.dtype, torch.float32)) / counts[1]
            # the mean over no labels is NaN; beside micro-batches that have some it counts for
            # nothing
            return torch.where(share == 0, torch.zeros_like(found), found * share.to(found.dtype))

        return value

    return {
        key: [loss(key, batch, pair) for batch, pair in zip(given, counts[key], strict=True)]
        for key, given in several.items()
    }


def autocast_dtype(
    autocast: Callable[[], AbstractContextManager[Any]], device: torch.device
) -> torch.dtype | None:
    """The type in which operations are evaluated in a context; `None` if in that of their arguments."""
    with autocast():
        return (
            torch.get_autocast_dtype(device.type)
            if torch.is_autocast_enabled(device.type)
            else None
        )


def model_loss(model: Any, batch: Batch) -> Tensor:
    """The loss that a transformers model returns for a batch with labels."""
    outputs = model(**batch)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if loss is None:
        raise DataError(
            f"The model must return a loss. Found none for a batch with {sorted(batch)}. Give the"
            " batches `labels` (a data collator makes them), or pass a loss function."
        )
    return loss


@contextmanager
def explained_loss(batch: Batch, label_names: Sequence[str]) -> Iterator[None]:
    """A context in which transformers' own complaint about a model without a loss names what the batch lacks."""
    try:
        yield
    except ValueError as error:
        if "did not return a loss" not in str(error):
            raise
        raise DataError(
            f"Batches must have what the loss is computed from, {[*label_names]}. Found"
            f" {sorted(batch)}. Give the rows labels, or pass a `processing_class` or a"
            " `data_collator` that makes them."
        ) from error


def _counts(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Sequence[Batch]],
    all_reduce: Callable[[Tensor], None] | None,
) -> dict[Language, list[tuple[Tensor, Tensor] | None]]:
    """The n and N of every micro-batch, as 0-d tensors on its device; `None` where there is but one."""
    if all_reduce is None and all(len(given) == 1 for given in batches.values()):
        return {key: [None] for key in batches}
    counts = _counts_of(model, batches)
    totals = _summed(counts, all_reduce)
    return {
        key: [(n, total) for n in count]
        for (key, count), total in zip(counts.items(), totals, strict=True)
    }


def label_counts(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Sequence[Batch]],
    all_reduce: Callable[[Tensor], None] | None,
) -> dict[Language, Tensor]:
    """How many labels each language has in all micro-batches of all processes, 0-d."""
    return dict(zip(batches, _summed(_counts_of(model, batches), all_reduce), strict=True))


def _counts_of(
    model: LanguageAdapterModel, batches: Mapping[Language, Sequence[Batch]]
) -> dict[Language, Tensor]:
    return {
        key: torch.stack([label_count(model, batch) for batch in given])
        for key, given in batches.items()
    }


def _summed(
    counts: Mapping[Language, Tensor], all_reduce: Callable[[Tensor], None] | None
) -> Tensor:
    """The sum of the counts of each language, over processes, too."""
    totals = torch.stack([count.sum() for count in counts.values()])
    if all_reduce is not None:
        all_reduce(totals)
    return totals


def label_count(model: LanguageAdapterModel, batch: Batch) -> Tensor:
    """How many labels the mean loss of a batch runs over: those not ignored, or the rows where there are no labels."""
    labels = batch.get("labels")
    if isinstance(labels, Tensor):
        if predicts_the_next_token(model) and labels.dim() > 1:
            labels = labels[..., 1:]
        return (labels != IGNORED).sum()
    rows = next(value for value in batch.values() if isinstance(value, Tensor))
    return rows.new_tensor(rows.shape[0], dtype=torch.int64)


def predicts_the_next_token(model: LanguageAdapterModel) -> bool:
    """Whether the model shifts the labels, so that the first of each row counts for nothing."""
    name = type(model.base_model).__name__
    return ("CausalLM" in name or "LMHead" in name) and not getattr(
        model.config, "is_encoder_decoder", False
    )

"""What evaluates a batch, and the labels over which its mean loss runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor, nn

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.counted_labels import counted
from hf_meta_adapters.steps.label_shift import first_label_counts

LossFunction: TypeAlias = Callable[[LanguageAdapterModel, Batch], Tensor]
"""Computes the mean loss over the labels of a batch, 0-d, from the model and the batch."""

Batches: TypeAlias = Batch | Sequence[Batch]
"""The batch of one language, or several that count as one (gradient accumulation)."""

NO_LOSS = "did not return a loss"
"""Words of the ValueError of `transformers.Trainer.compute_loss` for a model without a loss."""


def micro_batches(batches: Batches) -> list[Batch]:
    """The batches as a list, even if there is only one."""
    if isinstance(batches, Mapping):
        return [batches]
    return list(batches)


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss that a transformers model returns for a batch with labels."""
    outputs = model(**batch)

    # Without `return_dict`, transformers puts the loss first.
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]

    if loss is None:
        raise DataError(
            f"The model must return a loss. Found none for a batch with {sorted(batch)}. Give the"
            " batches `labels` (a data collator makes them), or pass a loss function."
        )

    return loss


@contextmanager
def explained_loss(
    batch: Batch, label_names: Sequence[str], left_out: Callable[[], Sequence[str]] | None = None
) -> Iterator[None]:
    """A context in which transformers' error about a missing loss says what the batch lacks.

    Args:
        batch: The batch that is evaluated.
        label_names: The entries that the Trainer takes for labels.
        left_out: Finds the columns of the rows that are not in batches, one of which may be meant.

    Raises:
        DataError: In place of that error.
    """
    try:
        yield
    except ValueError as error:
        if NO_LOSS not in str(error):
            raise

        meant = left_out() if left_out is not None else ()
        hint = ""
        if meant:
            hint = (
                f" The columns {[*meant]} were left out, as the model does not take them; rename"
                f" one to `{label_names[0]}` if it holds the labels."
            )

        raise DataError(
            f"Batches must have what the loss is computed from, {[*label_names]}. Found"
            f" {sorted(batch)}.{hint} Give the rows labels, or pass a `processing_class` or a"
            " `data_collator` that makes them."
        ) from error


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model has a decoder with inputs of its own."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def whole_loss(loss_function: LossFunction | None) -> LossFunction:
    """The function that evaluates the loss of all positions: what a cheaper one was made from."""
    whole: LossFunction | None = getattr(loss_function, "whole_loss", loss_function)
    return whole or model_loss


def predicts_the_next_token(model: nn.Module) -> bool:
    """Whether the model's own loss shifts the labels, so that the first of each row is ignored."""
    return not first_label_counts(model, None, model_loss)


def label_count(
    model: LanguageAdapterModel, batch: Batch, loss_function: LossFunction | None = None
) -> int:
    """The number of labels over which the mean loss of a batch runs; rows without labels."""
    first, others = counted(batch)
    if first and first_label_counts(model, batch, whole_loss(loss_function)):
        others += first
    return others

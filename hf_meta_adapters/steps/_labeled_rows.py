"""The labeled positions of a batch, in the form in which a model computes its loss from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import IGNORED_LABEL
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._decoder_inputs import decoder_inputs
from hf_meta_adapters.steps.losses import is_encoder_decoder


@dataclass(frozen=True)
class LabeledRows:
    """The rows of the flattened hidden states that the head sees, and labels of a fitting shape.

    Args:
        index: The numbers of the rows among (rows · positions).
        labels: Their labels, of shape (labeled, 1), or (1, labeled) where the model shifts them.
        decoder_input_ids: What the decoder sees; `None` if the model has no decoder of its own.
    """

    index: Tensor
    labels: Tensor
    decoder_input_ids: Tensor | None = None


def labeled_rows(model: LanguageAdapterModel, labels: Tensor, *, shifted: bool) -> LabeledRows:
    """Pick the labeled positions.

    Args:
        model: The model.
        labels: The labels, of shape (rows, positions).
        shifted: Whether the label of a position belongs to the logits of the one before.

    Returns:
        Where they are, and their labels.
    """
    if shifted:
        return _shifted_rows(labels)

    # A row of one label each: the model flattens them, and its loss is the mean over all.
    index = (labels.flatten() != IGNORED_LABEL).nonzero().squeeze(1)
    picked = labels.flatten()[index].unsqueeze(1)

    if is_encoder_decoder(model):
        # The model would make them from the labels, which now lack most positions.
        return LabeledRows(index, picked, decoder_inputs(model.base_model, labels))

    return LabeledRows(index, picked)


def _shifted_rows(labels: Tensor) -> LabeledRows:
    """The positions whose next token is labeled.

    The model drops the last position and the first label: one of each is added, to be dropped.
    """
    # the target of a position is the label of the next one
    no_next_token = labels.new_full((len(labels), 1), IGNORED_LABEL)
    targets = torch.cat([labels[:, 1:], no_next_token], 1).flatten()
    index = (targets != IGNORED_LABEL).nonzero().squeeze(1)

    dropped_position = torch.zeros_like(targets[:1])
    dropped_label = labels.new_full((1,), IGNORED_LABEL)

    return LabeledRows(
        index=torch.cat([index, dropped_position]),
        labels=torch.cat([dropped_label, targets[index]]).unsqueeze(0),
    )


@contextmanager
def picking(base: Any, rows: LabeledRows, shape: torch.Size) -> Iterator[None]:
    """A context in which the head of a model sees the labeled rows in place of all positions.

    Args:
        base: The transformers model.
        rows: The rows.
        shape: (rows, positions) of the batch.

    Raises:
        ConfigurationError: If the head is not called once, with the hidden states of all positions.
    """
    calls: list[nn.Module] = []

    def pick(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = inputs

        # (rows, positions, width), once: otherwise the module is not the head, or more than that
        if calls or states.shape[:2] != shape:
            raise ConfigurationError(
                f"A sparse head needs the hidden states of {tuple(shape)} positions, once. Found"
                f" {tuple(states.shape[:-1])} in call {len(calls) + 1}. Use `sparse_head=False`."
            )

        calls.append(head)

        picked = states.flatten(0, 1)[rows.index]
        return picked.view(*rows.labels.shape, states.shape[-1]), *others

    handle = base.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()

    if not calls:
        raise ConfigurationError(
            "A sparse head must be called by the forward pass. Found that it was not. Use"
            " `sparse_head=False`."
        )

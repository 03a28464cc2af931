"""The language-model head at labelled positions only: the same loss from a fraction of the head's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import IGNORED, LossFunction, model_loss, predicts_the_next_token

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class _Rows:
    """Which rows of the flattened positions the head sees, and the labels in the shape that the model then expects."""

    index: Tensor
    labels: Tensor
    decoder_input_ids: Tensor | None


class SparseHead:
    """The loss of a language model whose head is evaluated at labelled positions only.

    A head maps every position to the whole vocabulary, although the loss reads the labelled
    positions alone: 15 % of them in masked language modelling. The hidden states of those are
    picked before the head, and the labels with them; the model's own forward pass and its own loss
    do the rest, so that value and gradients are the same up to rounding. Where the head sits is the
    model's own word (`get_output_embeddings`).

    It is a `loss_function` of `meta_step` and `joint_step`. The first batch is evaluated both ways,
    without gradients and with the same random numbers, and a model that gives another loss with the
    sparse head is not trained with it.

    Args:
        model: The model.
        loss_function: What evaluates a batch; default the loss that the model returns. It must not
            depend on the shape of the labels.
        required: Whether a model that cannot do it is an error; by default its head then sees all
            positions.

    Raises:
        ConfigurationError: If it is required, and the model has no head that serves.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, None, languages=["en"]).eval()
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[-100, 6, -100, -100]])}
        >>> head = SparseHead(model)
        >>> torch.allclose(head(model, batch), model(**batch).loss)
        True
        >>> head.active
        True
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        loss_function: LossFunction | None = None,
        *,
        required: bool = False,
    ) -> None:
        self.active: bool | None = None
        """Whether the head is evaluated sparsely; `None` before the first batch."""
        self._evaluate = loss_function or model_loss
        self._required = required
        self._shifted = predicts_the_next_token(model)
        self._rows_of = WeakTensorKeyDictionary()  # a batch is evaluated several times in a step
        if required and (reason := _obstacle(model.base_model)):
            raise _refused(model.base_model, reason)

    def __call__(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        """The loss of a batch."""
        if self.active is None:
            self._decide(model, batch)
        return (
            self._sparse(model, batch)
            if self.active and _has_labels(batch)
            else self._evaluate(model, batch)
        )

    def logits(
        self, model: LanguageAdapterModel, batch: Batch, language: Sequence[Language]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits at the labelled positions of a batch with rows in several languages.

        Args:
            model: The model.
            batch: The tensors, with labels.
            language: That of each row.

        Returns:
            The logits, of shape (labelled positions, vocabulary); their labels; the row of each.
        """
        rows = self._rows(model, batch["labels"])
        given = {name: value for name, value in batch.items() if name != "labels"}
        if rows.decoder_input_ids is not None:
            given.setdefault("decoder_input_ids", rows.decoder_input_ids)
        with _picking(model.base_model, rows, batch["labels"].shape):
            logits = model(language=list(language), **given)["logits"].flatten(0, 1)
        index, labels = rows.index, rows.labels.flatten()
        if self._shifted:  # without the positions that were put there to be dropped
            index, logits, labels = index[:-1], logits[:-1], labels[1:]
        return logits, labels, index // batch["labels"].shape[1]

    def _decide(self, model: LanguageAdapterModel, batch: Batch) -> None:
        reason = _obstacle(model.base_model) or self._difference(model, batch)
        if reason and self._required:
            raise _refused(model.base_model, reason)
        self.active = reason is None

    def _difference(self, model: LanguageAdapterModel, batch: Batch) -> str | None:
        """What is wrong with the sparse head on a batch, if anything."""
        if not _has_labels(batch):
            return "a batch without labels of (rows, positions)"
        devices = [batch["labels"].device] if batch["labels"].is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            dense = self._evaluate(model, batch)
        with torch.no_grad(), torch.random.fork_rng(devices):
            try:
                sparse = self._sparse(model, batch)
            except (ValueError, RuntimeError, IndexError, TypeError, ConfigurationError) as error:
                return f"`{type(error).__name__}: {error}`"
        tolerance = _TOLERANCE.get(dense.dtype, 1e-2)
        if torch.allclose(dense, sparse, rtol=tolerance, atol=tolerance, equal_nan=True):
            return None
        return f"a loss of {float(sparse):.6g} where it is {float(dense):.6g} with all positions"

    def _sparse(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        rows = self._rows(model, batch["labels"])
        given = {**batch, "labels": rows.labels}
        if rows.decoder_input_ids is not None:
            given.setdefault("decoder_input_ids", rows.decoder_input_ids)
        with _picking(model.base_model, rows, batch["labels"].shape):
            return self._evaluate(model, given)

    def _rows(self, model: LanguageAdapterModel, labels: Tensor) -> _Rows:
        found = self._rows_of.get(labels)
        if found is None:
            found = self._rows_of[labels] = self._picked(model, labels)
        return found

    def _picked(self, model: LanguageAdapterModel, labels: Tensor) -> _Rows:
        base: Any = model.base_model
        if not self._shifted:
            index = (labels.flatten() != IGNORED).nonzero().squeeze(1)
            inputs = None
            if getattr(base.config, "is_encoder_decoder", False):
                inputs = decoder_inputs(base, labels)
            return _Rows(index, labels.flatten()[index].unsqueeze(1), inputs)
        # A model that shifts drops the last position and the first label: one of each is put there
        # to be dropped.
        targets = torch.cat(
            [labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1
        ).flatten()
        index = (targets != IGNORED).nonzero().squeeze(1)
        dropped = torch.zeros_like(targets[:1])
        shifted = torch.cat([labels.new_full((1,), IGNORED), targets[index]])
        return _Rows(torch.cat([index, dropped]), shifted.unsqueeze(0), None)


@contextmanager
def _picking(base: Any, rows: _Rows, shape: torch.Size) -> Iterator[None]:
    """A context in which the head of a model sees the picked rows in place of all positions."""
    calls: list[nn.Module] = []

    def pick(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = inputs
        if calls or states.shape[:2] != shape:
            raise ConfigurationError(
                f"A sparse head needs the hidden states of {tuple(shape)} positions, once. Found "
                f"{tuple(states.shape[:-1])} in call {len(calls) + 1}. Write `sparse_head=False`."
            )
        calls.append(head)
        return states.flatten(0, 1)[rows.index].view(*rows.labels.shape, states.shape[-1]), *others

    handle = base.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise ConfigurationError("A sparse head must be called by the forward pass. Found no call of it. Write "
                                 "`sparse_head=False`.")  # fmt: skip


def _obstacle(base: Any) -> str | None:
    """Why a model cannot have a sparse head, if it is plain to see."""
    try:
        head = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if not isinstance(head, nn.Module):
        return "no output embeddings"
    return None


def decoder_inputs(base: Any, labels: Tensor) -> Tensor:
    """The labels, shifted to the right as the model itself would do it."""
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        return base.prepare_decoder_input_ids_from_labels(labels)
    start = labels.new_full((len(labels), 1), base.config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], 1)
    return shifted.masked_fill(shifted == IGNORED, base.config.pad_token_id)


def _has_labels(batch: Mapping[str, Any]) -> bool:
    labels = batch.get("labels")
    return isinstance(labels, Tensor) and labels.dim() == 2


def _refused(base: nn.Module, reason: str) -> ConfigurationError:
    return ConfigurationError(
        "`sparse_head=True` needs a language model whose head can be evaluated at some positions"
        f" only. Found, in `{type(base).__name__}`, {reason}. Write `sparse_head=None`, which uses"
        " it where it can be."
    )

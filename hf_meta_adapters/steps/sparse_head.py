"""The language-model head at labeled positions only: the same loss from less arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._first_batch import COARSE, random_state_kept, tolerance, with_labels
from hf_meta_adapters.steps._labeled_rows import LabeledRows, labeled_rows, picking
from hf_meta_adapters.steps.label_shift import first_label_counts
from hf_meta_adapters.steps.losses import LossFunction, whole_loss


class SparseHead:
    """The loss of a language model whose head is evaluated at labeled positions only.

    A head maps every position to the whole vocabulary, although the loss reads the labeled
    positions alone: 15 % of them in masked language modeling. Their hidden states are picked before
    the head, and the labels with them. The model's own forward pass and its own loss do the rest,
    so that value and gradients are the same up to rounding. The model itself says where its head
    is (`get_output_embeddings`).

    It is a `loss_function` of `meta_step` and `joint_step`. The first batch is evaluated both ways,
    without gradients and with the same random numbers; a model whose loss differs keeps its dense
    head.

    Args:
        model: The model.
        loss_function: Evaluates a batch; default the loss that the model returns. It must not
            depend on the shape of the labels.
        required: Whether a model without a suitable head is an error; by default its head then sees
            all positions.

    Raises:
        ConfigurationError: If it is required, and the model has no suitable head.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> model = get_language_model(base, None, languages=["en"]).eval()
        >>> labels = torch.tensor([[-100, 6, -100, -100]])
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": labels}
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

        self.whole_loss = whole_loss(loss_function)
        """Evaluates the loss of all positions."""
        self._required = required

        self._is_shifted = False

        # A batch is evaluated several times in a step. Weak, so that it can end with the step.
        self._rows_of = WeakTensorKeyDictionary()

        if required and not _has_head(model.base_model):
            raise _refused(model.base_model, "no output embeddings")

    def __call__(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        """Compute the loss of a batch.

        Args:
            model: The model, with a language set.
            batch: The tensors, with labels.

        Returns:
            The loss, 0-d.

        Raises:
            ConfigurationError: If a sparse head is required, and the first batch shows that the
                model gives another loss with it.
        """
        if self.active is None:
            self._decide(model, batch)

        if self.active and _has_labels(batch):
            return self._sparse_loss(model, batch)
        return self.whole_loss(model, batch)

    def logits(
        self, model: LanguageAdapterModel, batch: Batch, language: Sequence[Language]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits at the labeled positions of a batch with rows in several languages.

        Args:
            model: The model.
            batch: The tensors, with labels of shape (rows, positions).
            language: The language of each row.

        Returns:
            The logits, of shape (labeled positions, vocabulary); their labels; the row of each.
        """
        rows = self._rows(model, batch["labels"])
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if rows.decoder_input_ids is not None:
            inputs.setdefault("decoder_input_ids", rows.decoder_input_ids)

        length = batch["labels"].shape[1]
        with picking(model.base_model, rows, batch["labels"].shape):
            logits = model(language=list(language), **inputs)["logits"].flatten(0, 1)

        index, labels = rows.index, rows.labels.flatten()
        if self._is_shifted:
            # without the position and the label that were added to be dropped
            index, logits, labels = index[:-1], logits[:-1], labels[1:]

        return logits, labels, index // length

    def _decide(self, model: LanguageAdapterModel, batch: Batch) -> None:
        """Find out on the first batch whether the model can have a sparse head."""
        reason: str | None = "no output embeddings"
        if _has_head(model.base_model):
            reason = self._difference(model, batch)

        if reason is not None and self._required:
            raise _refused(model.base_model, reason)
        self.active = reason is None

    def _difference(self, model: LanguageAdapterModel, batch: Batch) -> str | None:
        """How the sparse loss of a batch differs from the dense one; `None` if it does not."""
        if not _has_labels(batch):
            return "a batch without labels of (rows, positions)"

        batch = with_labels(batch)
        self._is_shifted = not first_label_counts(model, batch, self.whole_loss)

        # An error of the dense loss is the user's to see; one of the sparse loss is a reason.
        with torch.no_grad(), random_state_kept(batch["labels"]):
            dense = self.whole_loss(model, batch)

        with torch.no_grad(), random_state_kept(batch["labels"]):
            try:
                sparse = self._sparse_loss(model, batch)
            except (ValueError, RuntimeError, IndexError, TypeError, ConfigurationError) as error:
                return f"`{type(error).__name__}: {error}`"

        # Under autocast the losses are in float32, the logits in half precision.
        bound = tolerance(dense.dtype)
        if torch.is_autocast_enabled(dense.device.type):
            bound = COARSE
        if torch.allclose(dense, sparse, rtol=bound, atol=bound, equal_nan=True):
            return None

        return (
            f"a loss of {float(sparse):.6g} in place of the {float(dense):.6g} with all positions"
        )

    def _sparse_loss(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        rows = self._rows(model, batch["labels"])
        inputs = {**batch, "labels": rows.labels}
        if rows.decoder_input_ids is not None:
            inputs.setdefault("decoder_input_ids", rows.decoder_input_ids)

        with picking(model.base_model, rows, batch["labels"].shape):
            return self.whole_loss(model, inputs)

    def _rows(self, model: LanguageAdapterModel, labels: Tensor) -> LabeledRows:
        rows: LabeledRows | None = self._rows_of.get(labels)
        if rows is None:
            rows = labeled_rows(model, labels, shifted=self._is_shifted)
            self._rows_of[labels] = rows

        return rows


def _has_head(base: Any) -> bool:
    """Whether the model says which of its modules is the head."""
    try:
        return isinstance(base.get_output_embeddings(), nn.Module)
    except (AttributeError, NotImplementedError):
        return False


def _has_labels(batch: Batch) -> bool:
    """Whether the batch has a label for each position."""
    labels = batch.get("labels")
    return isinstance(labels, Tensor) and labels.dim() == 2


def _refused(base: nn.Module, reason: str) -> ConfigurationError:
    return ConfigurationError(
        "`sparse_head=True` needs a language model whose head can be evaluated at some positions"
        f" only. Found, in `{type(base).__name__}`, {reason}. Use `sparse_head=None`, which"
        " evaluates a sparse head where the model allows it."
    )

"""The objective of sentence encoders: to find the translation of a row among those of a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_meta_adapters._typing import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TranslationCollator", "TranslationRanker", "mean_states"]


def mean_states(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Compute u / ‖u‖, u = Σ_t m_t h_t / Σ_t m_t, of each row.

    Args:
        states: h, of shape (rows, places, width).
        attention_mask: m, of shape (rows, places); `None` for all places.

    Returns:
        A vector of length 1 for each row, in float32, of shape (rows, width).
    """
    states = states.float()
    if attention_mask is None:
        return normalize(states.mean(1), dim=-1)

    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


class TranslationRanker(PreTrainedModel):
    """L = −log softmax_c(⟨u, e_c⟩ / τ) at the own translation, with candidates e_c that are given.

    u is the mean of the last states of the row. The candidates are fixed vectors, so that the loss
    of a language depends on θ and its φ alone, and every method trains it as it is. Each row brings
    its candidates along: rows of several languages may share a pass, and any part of a batch has
    the loss that it has in the whole.

    Args:
        body: The encoder, which stays the same object.
        name: The name of the body in its other models, such as "bert".
        temperature: τ.
        candidates: How many candidates a row has, at most.
    """

    main_input_name = "input_ids"

    # It has no attention of its own; whatever that of the body is.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(
        self, body: PreTrainedModel, name: str, *, temperature: float, candidates: int
    ) -> None:
        config = copy.deepcopy(body.config)
        config.num_labels = candidates  # by which labels are checked before a pass
        super().__init__(config)

        # Under this name parameters are called what they are called in the encoder's other models.
        self.base_model_prefix = name
        setattr(self, name, body)
        self.temperature = temperature

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        candidates: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Compute the similarities of rows with their candidates, and the loss.

        Args:
            input_ids: The tokens, of shape (rows, places).
            attention_mask: 1 for tokens, 0 for padding.
            candidates: Vectors of length 1, of shape (rows, candidates, width).
            labels: The number of the own translation among them, of shape (rows).

        Returns:
            `logits`, of shape (rows, candidates), and with labels the mean `loss`.
        """
        body: nn.Module = self.base_model
        states = body(input_ids=input_ids, attention_mask=attention_mask)[0]
        own = mean_states(states, attention_mask)

        assert candidates is not None  # its default makes the signature that of any model
        logits = (candidates * own.unsqueeze(1)).sum(-1) / self.temperature
        loss = None
        if labels is not None:
            loss = cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class TranslationCollator:
    """Makes batches of `TranslationRanker`: the translations of all rows are everyone's candidates.

    Args:
        tokenizer: Pads the rows.
        table: The vectors of all translations, of shape (translations, width).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, table: Tensor) -> None:
        self._tokenizer = tokenizer
        self._table = table

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Make a batch.

        Args:
            rows: Rows with `input_ids` and `translation`, the number of the vector in the table.

        Returns:
            The tensors that the model takes.
        """
        batch = dict(
            self._tokenizer.pad(
                {"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"
            )
        )
        found = self._table[torch.tensor([row["translation"] for row in rows])]
        batch["candidates"] = found.expand(len(rows), *found.shape).contiguous()
        batch["labels"] = torch.arange(len(rows))
        return batch

"""What would end deep inside the model, or on a GPU without a message, is refused where the batch is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.errors import DataError, HubError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_POSITIONS = ("position_embeddings", "embed_positions", "wpe")
_TOKENS = ("input_ids", "decoder_input_ids")


class BatchCheck:
    """Compares tokens, labels and lengths of a batch with what the model has room for.

    Args:
        model: The model.
    """

    def __init__(self, model: LanguageAdapterModel) -> None:
        base: Any = model.base_model
        embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
        self._vocabulary = getattr(embeddings, "num_embeddings", None)
        weight = getattr(head, "weight", None)
        labels = getattr(base.config, "num_labels", None) if weight is None else weight.shape[0]
        self._labels = (
            None if getattr(base.config, "problem_type", None) == "regression" else labels
        )
        found = [
            part for name, part in base.named_modules() if name.rpartition(".")[2] in _POSITIONS
        ]
        self._main_input = base.main_input_name
        self._same_length = (
            "attention_mask",
            *(() if base.config.is_encoder_decoder else ("labels",)),
        )
        self._length = min(
            (_room(part) for part in found if isinstance(part, nn.Embedding)), default=None
        )

    def __call__(self, role: str, language: Language, batch: Batch) -> None:
        """Check a batch.

        Args:
            role: What it is for, for the message.
            language: Its language.
            batch: The tensors.

        Raises:
            DataError: If a token or a label has no place in the model, or rows are too long or have
                unequal columns.
        """
        where = f"the {role} rows of {language!r}"
        if not {self._main_input, "inputs_embeds"} & set(batch):
            raise DataError(
                f"A batch must have `{self._main_input}`. Found {sorted(batch)} in {where}."
                " Tokenize the text first, or pass a `data_collator` that does."
            )
        for name in _TOKENS:
            _within(batch.get(name), self._vocabulary, name, "the vocabulary of the model", where)
            self._check_length(name, batch.get(name), where)
        self._check_shapes(batch, where)
        labels = batch.get("labels")
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            _within(
                labels[labels != IGNORED_LABEL],
                self._labels,
                "labels",
                "what the model predicts",
                where,
            )

    def _check_length(self, name: str, tokens: Any, where: str) -> None:
        if (
            isinstance(tokens, Tensor)
            and self._length is not None
            and tokens.shape[-1] > self._length
        ):
            raise DataError(
                "A row must have at most as many tokens as the model has positions,"
                f" {self._length}. Found {tokens.shape[-1]} in `{name}` of {where}. Cut the text"
                f" when it is tokenized: `truncation=True, max_length={self._length}`."
            )

    def _check_shapes(self, batch: Batch, where: str) -> None:
        tokens = batch.get("input_ids")
        for name in self._same_length:
            other = batch.get(name)
            if (
                isinstance(tokens, Tensor)
                and isinstance(other, Tensor)
                and other.dim() == tokens.dim() == 2
            ):
                if other.shape == tokens.shape:
                    continue
                raise DataError(
                    f"`{name}` must be as long as `input_ids`. Found {tuple(other.shape)} and"
                    f" {tuple(tokens.shape)} in {where}. Make both from the same tokens, and let a"
                    " collator pad both."
                )


def check_weights(model: LanguageAdapterModel, source: str | Path | None = None) -> None:
    """Check that θ and every φ are finite.

    Args:
        model: The model.
        source: Where they were read from, for the message.

    Raises:
        HubError: Naming the first ones that are not.
    """
    owned = {**model.shared_parameters()}
    for key in model.languages:
        owned.update(model.language_parameters(key))
    bad = [name for name, one in owned.items() if not bool(torch.isfinite(one.detach()).all())]
    if bad:
        where = "in the model" if source is None else f"in {source}"
        raise HubError(
            f"Weights must be finite before training. Found NaN or infinity {where} in"
            f" {', '.join(bad[:3])}{f' and {len(bad) - 3} more' if len(bad) > 3 else ''}. Load an"
            " earlier checkpoint, or create the adapter anew."
        )


def _within(values: Any, end: int | None, name: str, what: str, where: str) -> None:
    if not isinstance(values, Tensor) or end is None or values.numel() == 0:
        return
    if values.is_floating_point():
        raise DataError(
            f"`{name}` must be whole numbers. Found {values.dtype} in {where}. Give the numbers of"
            " tokens, not their embeddings."
        )
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high >= end:
        raise DataError(
            f"`{name}` must be from 0 to {end - 1}, {what}. Found {low if low < 0 else high} in"
            f" {where}. Tokenize with the tokenizer of this model, and give it as many labels as"
            " the data have."
        )


def _room(positions: nn.Embedding) -> int:
    """The longest row: some models leave the first places out, those of padding or a fixed offset."""
    left_out = 0 if positions.padding_idx is None else positions.padding_idx + 1
    return positions.num_embeddings - max(left_out, int(getattr(positions, "offset", 0)))

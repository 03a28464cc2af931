"""Batches that would fail deep inside the model, or on a GPU without a message, are refused."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_POSITIONS = ("position_embeddings", "embed_positions", "wpe")
_TOKENS = ("input_ids", "decoder_input_ids")
_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
_MOVES_LABELS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
"""The task types for which PEFT gives the prompt labels of its own, or the decoder no prompt."""


class BatchCheck:
    """Compares tokens, labels and lengths of a batch with what the model has room for.

    Args:
        model: The model.
    """

    def __init__(self, model: LanguageAdapterModel) -> None:
        base: PreTrainedModel = model.base_model
        self._main_input: str = base.main_input_name
        self._vocabulary = _vocabulary(base)
        self._labels = _label_count(base)
        self._length = _longest_row(base)

        self._prompt = _prompt(model)

        # An encoder-decoder's labels are the decoder's, of a length of their own.
        self._same_length = ["attention_mask"]
        if not base.config.is_encoder_decoder:
            self._same_length.append("labels")

    def __call__(self, role: str, language: Language, batch: Batch) -> None:
        """Check a batch.

        Args:
            role: What it is for, for the message.
            language: Its language.
            batch: The tensors.

        Raises:
            DataError: If a token or a label has no place in the model, or rows are too long or have
                columns of unequal length.
        """
        where = f"the {role} rows of {language!r}"
        if self._main_input not in batch and "inputs_embeds" not in batch:
            raise DataError(
                f"A batch must have `{self._main_input}`. Found {sorted(batch)} in {where}."
                " Tokenize the text first, or pass a `data_collator` that does."
            )

        # An embedding on a GPU does not report an id outside its table: the process dies with a
        # device-side assertion, some operations later.
        for name in _TOKENS:
            tokens = batch.get(name)
            if isinstance(tokens, Tensor):
                _check_not_empty(name, tokens, batch, where)
                _check_range(tokens, self._vocabulary, name, "the vocabulary of the model", where)
                self._check_length(name, tokens, where)

        self._check_shapes(batch, where)
        self._check_prompt(batch, where)

        # Labels in floating point are the targets of a regression: any number will do.
        labels = batch.get("labels")
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            predicted = labels[labels != IGNORED_LABEL]
            _check_range(predicted, self._labels, "labels", "what the model predicts", where)

    def _check_length(self, name: str, tokens: Tensor, where: str) -> None:
        if self._length is None or tokens.shape[-1] <= self._length:
            return

        raise DataError(
            f"A row must not have more tokens than the model has positions, {self._length}. Found"
            f" {tokens.shape[-1]} in `{name}` of {where}. Truncate the text when it is tokenized:"
            f" `truncation=True, max_length={self._length}`."
        )

    def _check_prompt(self, batch: Batch, where: str) -> None:
        """Refuse labels that say places of the text, where a prompt has moved the text."""
        if self._prompt is None:
            return

        labels = batch.get("labels")
        found = [name for name in ("start_positions", "end_positions") if name in batch]
        if isinstance(labels, Tensor) and labels.dim() > 1 and self._prompt not in _MOVES_LABELS:
            found.append("labels")

        if found:
            names = " and ".join(f"`{name}`" for name in found)
            raise DataError(
                f"Labels must say where they belong in the text. Found {names} in {where}, and a"
                f' prompt before the text (`task_type="{self._prompt}"`), for which PEFT does not'
                " move them. Use a method without a prompt, such as `LoraConfig(...)` or"
                ' `PrefixTuningConfig(...)`; for a causal model, set `task_type="CAUSAL_LM"`.'
            )

    def _check_shapes(self, batch: Batch, where: str) -> None:
        tokens = batch.get("input_ids")
        if not isinstance(tokens, Tensor) or tokens.dim() != 2:
            return

        for name in self._same_length:
            other = batch.get(name)
            # Labels of a classifier, (B), and masks of other shapes, (B, T, T), are fine.
            if not isinstance(other, Tensor) or other.dim() != 2:
                continue

            if other.shape != tokens.shape:
                raise DataError(
                    f"`{name}` must be as long as `input_ids`. Found {tuple(other.shape)} and"
                    f" {tuple(tokens.shape)} in {where}. Make both from the same tokens, and let a"
                    " collator pad both."
                )


def _prompt(model: LanguageAdapterModel) -> str | None:
    """The task type of a method of PEFT that puts a prompt before the text; `None` of others."""
    config = getattr(model.backend, "config", None)
    if getattr(config, "peft_type", None) not in _PROMPTS:
        return None

    task = getattr(config, "task_type", None)
    return str(getattr(task, "value", task))


def _check_not_empty(name: str, tokens: Tensor, batch: Batch, where: str) -> None:
    """Refuse a batch of nothing but padding."""
    mask = batch.get("attention_mask")
    is_hidden = name == "input_ids" and isinstance(mask, Tensor) and not mask.any()

    if tokens.numel() == 0 or is_hidden:
        raise DataError(
            f"A batch must have at least one token. Found none in `{name}` of shape"
            f" {tuple(tokens.shape)} in {where}. Remove empty texts from the data."
        )


def _vocabulary(base: PreTrainedModel) -> int | None:
    """The number of tokens that the model embeds; `None` if its embedding does not tell."""
    return getattr(base.get_input_embeddings(), "num_embeddings", None)


def _label_count(base: PreTrainedModel) -> int | None:
    """The number of classes that the model predicts; `None` if it predicts numbers."""
    if getattr(base.config, "problem_type", None) == "regression":
        return None

    # A language model predicts its vocabulary, whatever `num_labels` says.
    weight = getattr(base.get_output_embeddings(), "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[0]
    return getattr(base.config, "num_labels", None)


def _longest_row(base: PreTrainedModel) -> int | None:
    """The number of positions that the model has; `None` if it computes them."""
    # Only tables of positions bound a row. Rotary, relative and sinusoidal positions do not.
    rooms = []
    for name, module in base.named_modules():
        if name.rpartition(".")[2] in _POSITIONS and isinstance(module, nn.Embedding):
            rooms.append(_room(module))

    return min(rooms, default=None)


def _room(positions: nn.Embedding) -> int:
    """The longest row: some models leave out the first places, as padding or a fixed offset."""
    left_out = 0
    if positions.padding_idx is not None:
        left_out = positions.padding_idx + 1

    return positions.num_embeddings - max(left_out, int(getattr(positions, "offset", 0)))


def _check_range(tensor: Tensor, end: int | None, name: str, what: str, where: str) -> None:
    """Check that whole numbers are in [0, end)."""
    if end is None or tensor.numel() == 0:
        return

    if tensor.is_floating_point():
        raise DataError(
            f"`{name}` must be whole numbers. Found {tensor.dtype} in {where}. Pass the ids of"
            " tokens, not their embeddings."
        )

    low, high = (int(bound) for bound in tensor.aminmax())
    if low >= 0 and high < end:
        return

    offending = high
    if low < 0:
        offending = low
    raise DataError(
        f"`{name}` must be from 0 to {end - 1}, {what}. Found {offending} in {where}. Tokenize with"
        " the tokenizer of this model, and give the model as many labels as the data have."
    )

"""The default collator of a model: it turns rows of text into batches with labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)
from transformers.models.auto import modeling_auto

from hf_meta_adapters._typing import IGNORED_LABEL, Batch
from hf_meta_adapters.data import SpanCorruptionCollator
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.label_shift import reads_ahead
from hf_meta_adapters.steps.losses import is_encoder_decoder, predicts_the_next_token

__all__ = ["get_data_collator"]

Collator: TypeAlias = Callable[[list[Any]], Batch]
"""Makes a batch of examples."""

# In this order: BART is in the first two, as it is an encoder-decoder. The tables say what models
# are pretrained on, but not how they compute their loss.
_HEADS = {
    "seq2seq_lm": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked_lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "image_text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "token_classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
_MOST_SENTINELS = 100


def get_data_collator(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Collator | None:
    """Return the collator of a model by its head: it makes what such models are pretrained on.

    - masked language models: `DataCollatorForLanguageModeling`, 15 % of the tokens;
    - causal language models: the labels are the tokens, without the padding; a tokenizer without a
      padding token (Llama's) pads with its end of text, which stays a label where it ends a text.
      Where the model does not shift labels by itself (`BartForCausalLM`), they are the next tokens;
    - encoder-decoders: `SpanCorruptionCollator`, with the tokenizer's sentinels (T5, mT5) or its
      mask (BART, mBART);
    - token classification: `DataCollatorForTokenClassification`.

    Rows that have `labels` already (translations, say) are padded and keep their labels.

    Args:
        model: A model of transformers, or of `get_language_model`.
        tokenizer: Its tokenizer.

    Returns:
        The collator; `None` for other heads, where `transformers.Trainer` chooses.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
        >>> words = Tokenizer(models.WordLevel({"<end>": 0, "habari": 1}, unk_token="<end>"))
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
        >>> collator = get_data_collator(model, tokenizer)
        >>> batch = collator([{"input_ids": [1, 1, 0]}, {"input_ids": [1, 0]}])
        >>> batch["labels"].tolist()
        [[1, 1, 0], [1, 0, -100]]
    """
    # The class of the base model tells the head; that of the wrapper is always the same.
    if isinstance(model, LanguageAdapterModel):
        model = model.base_model

    head = _head(model)
    if head is None:
        return None

    padding_tokenizer = _with_padding(tokenizer)
    if head == "token_classification":
        return DataCollatorForTokenClassification(padding_tokenizer)

    # `DataCollatorForSeq2Seq` pads `labels` with -100, of any model.
    return _TextCollator(
        of_text=_text_collator(head, model, tokenizer),
        of_labels=DataCollatorForSeq2Seq(padding_tokenizer),
        model=type(model).__name__,
    )


@dataclass(frozen=True)
class _TextCollator:
    """Rows of text get labels; rows that have labels keep them."""

    of_text: Collator | None
    of_labels: Collator
    model: str

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        # All rows of a batch come from one dataset.
        if "labels" in rows[0]:
            return self.of_labels(rows)

        if self.of_text is None:
            raise DataError(
                "Labels are made from text with a mask token, or with sentinels such as"
                f" `<extra_id_0>`. Found neither in the tokenizer, for a `{self.model}`. Pass rows"
                " with `labels`, or a `data_collator`."
            )
        return self.of_text(rows)


@dataclass(frozen=True)
class _CausalCollator:
    """Every token is a label, at its own place or at the one before, whose logits predict it."""

    pad: Collator
    shifts: bool

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        return self.pad([{**row, "labels": self._labels([*row["input_ids"]])} for row in rows])

    def _labels(self, tokens: list[int]) -> list[int]:
        if self.shifts:
            return [*tokens[1:], IGNORED_LABEL]
        return tokens


def _head(model: nn.Module) -> str | None:
    """What the model is pretrained on, by its class; `None` if this module does not know it."""
    # a class that a user has derived is not in any table
    classes = {parent.__name__ for parent in type(model).__mro__}
    head = next((name for name, models in _HEADS.items() if classes & _class_names(models)), None)

    if head == "image_text":
        head = "seq2seq_lm" if is_encoder_decoder(model) else "causal_lm"

    # XLNet is in the table of causal models, but reads the token that it would be asked for.
    if head == "causal_lm" and not predicts_the_next_token(model) and reads_ahead(model):
        return None
    return head


def _class_names(models: Mapping[str, str | Sequence[str]]) -> set[str]:
    """The classes in a table of transformers: of some types of model it names several."""
    names: set[str] = set()
    for entry in models.values():
        if isinstance(entry, str):
            names.add(entry)
        else:
            names.update(entry)
    return names


def _text_collator(
    head: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> Collator | None:
    """The collator that makes labels from text; `None` where the tokenizer has nothing for it."""
    if head == "causal_lm":
        pad = DataCollatorForSeq2Seq(_with_padding(tokenizer))
        return _CausalCollator(pad, shifts=not predicts_the_next_token(model))

    if head == "seq2seq_lm":
        return _span_collator(tokenizer)

    if tokenizer.mask_token is None:
        return None
    return DataCollatorForLanguageModeling(tokenizer)


def _span_collator(tokenizer: PreTrainedTokenizerBase) -> SpanCorruptionCollator | None:
    """Span corruption with sentinels if there are at least two, or else with the mask."""
    # Special tokens are never part of a span: the end of a text is not to be guessed.
    special = frozenset(tokenizer.all_special_ids)
    sentinels = _sentinels(tokenizer)
    if len(sentinels) > 1:
        return SpanCorruptionCollator(
            sentinels=sentinels,
            special_ids=special,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    if tokenizer.mask_token is None:
        return None
    return SpanCorruptionCollator(
        mask_token_id=tokenizer.mask_token_id,
        special_ids=special,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, … up to the first that is missing."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids: list[int] = []

    for number in range(_MOST_SENTINELS):
        token = f"<extra_id_{number}>"
        if token not in vocabulary:
            token = f"▁{token}"  # in mT5 they are pieces of text that begin a word

        if token not in vocabulary:
            break
        ids.append(vocabulary[token])

    return ids


def _with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy that pads with its end of text."""
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        # A copy, since the user's tokenizer is saved and published with the model.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

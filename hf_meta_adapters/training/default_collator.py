"""The collator for a kind of model: what makes batches of its training text."""

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

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.data import SpanCorruptionCollator
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["get_data_collator"]

Collator: TypeAlias = Callable[[list[Any]], Batch]


def get_data_collator(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Collator | None:
    """Return the collator that makes batches for a model by its head: what it was pretrained to predict.

    - masked language models: `DataCollatorForLanguageModeling`, 15 % of the tokens;
    - causal language models: the labels are the tokens, without the padding; a tokenizer that has
      no padding token (Llama's) pads with its end of text, which stays a label where it ends a
      text;
    - encoder-decoders: `SpanCorruptionCollator`, with the tokenizer's sentinels (T5, mT5) or its
    mask (BART, mBART);
    - token classification: `DataCollatorForTokenClassification`.

    Rows that have `labels` already (translations, say) are padded, and their labels taken as they
    are.

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
        >>> batch = get_data_collator(model, tokenizer)([{"input_ids": [1, 1, 0]}, {"input_ids": [1, 0]}])
        >>> batch["labels"].tolist()
        [[1, 1, 0], [1, 0, -100]]
    """
    if isinstance(model, LanguageAdapterModel):
        model = model.base_model
    kind = _kind(model)
    if kind == "token_classification":
        return DataCollatorForTokenClassification(_padding(tokenizer))
    if kind is None:
        return None
    return _TextCollator(
        _of_text(kind, tokenizer), DataCollatorForSeq2Seq(_padding(tokenizer)), type(model).__name__
    )


@dataclass(frozen=True)
class _TextCollator:
    """Rows of text get labels; rows that have labels keep them."""

    of_text: Collator | None
    of_labels: Collator
    model: str

    def __call__(self, rows: list[Any]) -> Batch:
        if "labels" in rows[0]:
            return self.of_labels(rows)
        if self.of_text is None:
            raise DataError(
                "Labels are made of text with a mask token, or with sentinels such as"
                f" `<extra_id_0>`. Found neither in the tokenizer, for a `{self.model}`. Give rows"
                " with `labels`, or a `data_collator`."
            )
        return self.of_text(rows)


def _kind(model: nn.Module) -> str | None:
    kinds = {  # BART is in the first two: it is an encoder-decoder
        "seq2seq_lm": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "masked_lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "token_classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }
    name = type(model).__name__
    return next((kind for kind, models in kinds.items() if name in _names(models)), None)


def _names(models: Mapping[str, str | Sequence[str]]) -> set[str]:
    several = ([names] if isinstance(names, str) else names for names in models.values())
    return {name for names in several for name in names}


def _of_text(kind: str, tokenizer: PreTrainedTokenizerBase) -> Collator | None:
    if kind == "causal_lm":
        padded = DataCollatorForSeq2Seq(_padding(tokenizer))
        return lambda rows: padded([{**row, "labels": row["input_ids"]} for row in rows])
    if kind == "masked_lm":
        return None if tokenizer.mask_token is None else DataCollatorForLanguageModeling(tokenizer)
    sentinels = _sentinels(tokenizer)
    if len(sentinels) < 2 and tokenizer.mask_token is None:
        return None
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    special = frozenset(tokenizer.all_special_ids)
    if len(sentinels) > 1:
        return SpanCorruptionCollator(sentinels=sentinels, special_ids=special, **ends)
    return SpanCorruptionCollator(
        mask_token_id=tokenizer.mask_token_id, special_ids=special, **ends
    )


def _sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of `<extra_id_0>`, `<extra_id_1>`, …; those of mT5 are pieces of text, which begin a word."""
    vocabulary, found = tokenizer.get_vocab(), []
    for number in range(100):
        names = (f"<extra_id_{number}>", f"▁<extra_id_{number}>")
        place = next((vocabulary[name] for name in names if name in vocabulary), None)
        if place is None:
            break
        found.append(place)
    return found


def _padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy that pads with its end of text."""
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

"""A tokenizer and a model with random weights, for text that no pretrained model covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from hf_meta_adapters._typing import AutoClass

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["new_model", "train_tokenizer"]


def train_tokenizer(
    texts: Iterable[str], *, vocabulary: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer with the special tokens of XLM-R.

    Args:
        texts: The texts, in equal amounts of each language.
        vocabulary: The size of the vocabulary.
        max_length: The largest number of tokens in a row.

    Returns:
        A fast tokenizer.

    Example:
        >>> texts = ["Hapo mwanzo", "In the beginning"]
        >>> tokenizer = train_tokenizer(texts, vocabulary=40, max_length=16)
        >>> tokenizer.decode(tokenizer("Hapo mwanzo")["input_ids"], skip_special_tokens=True)
        'Hapo mwanzo'
    """
    # The trainer numbers special tokens in this order; the template below relies on 0 and 2.
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

    tokenizer = Tokenizer(models.BPE(unk_token=special_tokens[3]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special_tokens, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )

    # As in XLM-R, `<s>` and `</s>` also serve as the [CLS] and [SEP] of BERT.
    roles = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    }
    # As XLM-R. With transformers 4, the default has token types, which ModernBERT does not take.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **roles,
    )


def new_model(
    auto_class: AutoClass,
    model_type: str,
    sizes: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str = "float32",
) -> PreTrainedModel:
    """Return a model with random weights for a tokenizer.

    Args:
        auto_class: The class of the model, such as `transformers.AutoModelForMaskedLM`.
        model_type: The architecture, a name of `transformers.AutoConfig` such as "xlm-roberta".
        sizes: Arguments of its config, such as `hidden_size`.
        tokenizer: Gives the size of the vocabulary, the special tokens and the number of positions.
        dtype: The type of its weights: "float32" (or "auto", which is the same here), "bfloat16" or
            "float16".

    Returns:
        The model.

    Example:
        >>> tokenizer = train_tokenizer(["Hapo mwanzo"], vocabulary=40, max_length=16)
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> sizes["intermediate_size"] = 8
        >>> auto_class = transformers.AutoModelForMaskedLM
        >>> model = new_model(auto_class, "xlm-roberta", sizes, tokenizer)
        >>> model.config.vocab_size == len(tokenizer)
        True
    """
    from_tokenizer = {
        # RoBERTa numbers positions from `pad_token_id` + 1, that is from 2.
        "max_position_embeddings": tokenizer.model_max_length + 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    config = transformers.AutoConfig.for_model(model_type, **{**from_tokenizer, **sizes})

    # Nothing is stored yet.
    if dtype == "auto":
        dtype = "float32"

    return auto_class.from_config(config, dtype=getattr(torch, dtype))

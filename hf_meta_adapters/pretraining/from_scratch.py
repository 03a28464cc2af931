"""A tokenizer and a model with random weights, for text that no pretrained model is there for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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

__all__ = ["new_model", "train_tokenizer"]

_ROLES = ("bos", "pad", "eos", "cls", "sep")


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, max_length: int) -> Any:
    """Train a BPE tokenizer with the special tokens of XLM-R.

    Args:
        texts: The texts, of all languages in equal parts.
        vocabulary: Number of pieces.
        max_length: Tokens in a row at most.

    Returns:
        A fast tokenizer.

    Example:
        >>> tokenizer = train_tokenizer(["Hapo mwanzo", "In the beginning"], vocabulary=40, max_length=16)
        >>> tokenizer.decode(tokenizer("Hapo mwanzo")["input_ids"], skip_special_tokens=True)
        'Hapo mwanzo'
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token=special[3]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    roles = ("bos", "pad", "eos", "unk", "mask", "cls", "sep")
    names = {
        f"{role}_token": token for role, token in zip(roles, [*special, "<s>", "</s>"], strict=True)
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, **names
    )


def new_model(auto_class: Any, model_type: str, sizes: Mapping[str, Any], tokenizer: Any) -> Any:
    """Return a model with random weights for a tokenizer.

    Args:
        auto_class: Its class, such as `transformers.AutoModelForMaskedLM`.
        model_type: The architecture, a name of `transformers.AutoConfig` such as "xlm-roberta".
        sizes: Arguments of its config, such as `hidden_size`.
        tokenizer: Gives the size of the vocabulary, the special tokens and the number of positions.

    Returns:
        The model.

    Example:
        >>> tokenizer = train_tokenizer(["Hapo mwanzo"], vocabulary=40, max_length=16)
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> model = new_model(transformers.AutoModelForMaskedLM, "xlm-roberta", sizes, tokenizer)
        >>> model.config.vocab_size == len(tokenizer)
        True
    """
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _ROLES}
    places = {
        "max_position_embeddings": tokenizer.model_max_length + 2,
        "vocab_size": len(tokenizer),
        **special,
    }
    return auto_class.from_config(
        transformers.AutoConfig.for_model(model_type, **{**places, **sizes})
    )

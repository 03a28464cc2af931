"""What must hold of a model, a tokenizer and a text before a vocabulary is extended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from hf_meta_adapters.errors import ConfigurationError, DataError, UnsupportedModelError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

MODELS = ("BPE", "Unigram", "WordPiece")
"""The kinds of tokenizers whose vocabulary can be extended."""

INITIALISATIONS = ("mean", "focus")


def check_choices(size: object, init: object) -> None:
    """Refuse a size or an initialisation that is none.

    Raises:
        ConfigurationError: In each of these cases.
    """
    # to Python, `True` is the integer 1
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(
            f"`size` must be the number of pieces to add, at least 1. Found {size!r}. Use for"
            " example 2000."
        )

    if init not in INITIALISATIONS:
        raise ConfigurationError(
            f"`init` must be one of {list(INITIALISATIONS)}. Found {init!r}. Leave it out for the"
            ' mean of the old pieces\' rows, `init="mean"`.'
        )


def checked_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list.

    Raises:
        DataError: If they are no texts, or hold none.
    """
    rule = "`texts` must be texts of the new language, as a list of strings."
    if isinstance(texts, str):
        raise DataError(f"{rule} Found one string. Pass `[text]`, or the lines of a file.")

    listed = list(texts)
    other = next((text for text in listed if not isinstance(text, str)), None)
    if other is not None:
        raise DataError(
            f"{rule} Found a `{type(other).__name__}` among them. Pass one column of a dataset:"
            ' `dataset["text"]`.'
        )
    if not any(text.strip() for text in listed):
        raise DataError(f"{rule} Found no text in {len(listed)} strings. Check where it is read.")

    return listed


def checked_backend(tokenizer: Any) -> Tokenizer:
    """The tokenizer of the library `tokenizers` inside one of transformers.

    Raises:
        ConfigurationError: If there is none, or it is of a kind that has no pieces.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigurationError(
            "The tokenizer must be one of the library `tokenizers`, a fast one, whose vocabulary"
            f" can be changed. Found `{type(tokenizer).__name__}`. Load it with"
            " `AutoTokenizer.from_pretrained(name)`, which prefers fast ones."
        )

    kind = type(backend.model).__name__
    if kind not in MODELS:
        raise ConfigurationError(
            f"The tokenizer must be one of {', '.join(MODELS)}, whose pieces new ones can be put"
            f" together from. Found `{kind}`. Use a model with another tokenizer."
        )
    return backend


def checked_base(model: object) -> transformers.PreTrainedModel:
    """The transformers model whose embeddings grow.

    Raises:
        UnsupportedModelError: If they cannot grow.
        ConfigurationError: If θ is an adapter already, with a number of rows of its own.
    """
    base: object = model
    if isinstance(model, LanguageAdapterModel):
        base = model.base_model
        if model.shared_part is not None:
            raise ConfigurationError(
                "New rows of a θ that is an adapter must be part of it from the start. Found a"
                " model whose θ is one. Call `added = extend_vocabulary(base, ...)` before, and"
                " then `get_language_model(base, ..., shared=LoraConfig(...,"
                " trainable_token_indices=added.token_indices))`."
            )

    if not isinstance(base, transformers.PreTrainedModel):
        raise UnsupportedModelError(
            "The model must be one of transformers, or one with languages. Found a"
            f" `{type(model).__name__}`. Load it with `AutoModelForCausalLM.from_pretrained(...)`"
            " or `LanguageAdapterModel.from_pretrained(...)`."
        )

    _check_whole(base)
    for name, part, kind in (
        ("input embeddings", base.get_input_embeddings(), nn.Embedding),
        ("output embeddings", base.get_output_embeddings(), nn.Linear),
    ):
        if part is None and name.startswith("output"):
            continue  # a model without a language-model head
        weight = getattr(part, "weight", None)
        is_real = isinstance(weight, nn.Parameter) and weight.is_floating_point()
        if not isinstance(part, kind) or not is_real:
            raise UnsupportedModelError(
                f"The {name} must be a plain `nn.{kind.__name__}`, to which rows can be added."
                f" Found a `{type(part).__name__}` in `{type(base).__name__}`. Extend the"
                " vocabulary before adapters are put into the embeddings or they are quantized."
            )

    _check_sides(base)
    return base


def check_same_vocabulary(base: transformers.PreTrainedModel, first: int) -> None:
    """Refuse a model with fewer embeddings than the tokenizer has tokens.

    Args:
        base: The model.
        first: The identifier after the last of the tokenizer.

    Raises:
        ConfigurationError: If there are fewer.
    """
    rows = base.get_input_embeddings().weight.shape[0]
    if rows < first:
        raise ConfigurationError(
            "The model must have an embedding for each token of the tokenizer. Found"
            f" {rows:,} embeddings and {first:,} tokens. Pass the tokenizer that the model was"
            " trained with; where tokens were added by hand, call"
            f" `model.resize_token_embeddings({first})` first."
        )


def check_found(found: int, size: int) -> None:
    """Refuse texts in which there are not enough pieces.

    Raises:
        DataError: If there are fewer than asked for.
    """
    if found < size:
        remedy = f"Pass more text, or `size={found}`." if found else "Pass more text."
        raise DataError(
            "The texts must hold as many new pieces as are asked for, each at least twice. Found"
            f" {found:,} pieces and `size={size}`. {remedy}"
        )


def check_kept(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Refuse a tokenizer whose old tokens would not keep their identifiers.

    Args:
        before: Token → identifier of the old tokenizer.
        after: Of the new one.

    Raises:
        ConfigurationError: If one would not.
    """
    moved = sorted(token for token, number in before.items() if after.get(token) != number)
    if moved:
        raise ConfigurationError(
            "Every token must keep its identifier when pieces are added. Found that"
            f" {moved[:3]}, {len(moved)} in all, would not, as the tokenizer has added tokens that"
            " its file does not list. Save and load it, and try again."
        )


def _check_sides(base: Any) -> None:
    """Refuse an encoder and a decoder of which one would not get the rows."""
    if not base.config.is_encoder_decoder:
        return

    for side in (base.get_encoder(), base.get_decoder()):
        part = side.get_input_embeddings()
        # the encoder of speech reads no tokens
        if isinstance(part, nn.Embedding) and part.weight is not base.get_input_embeddings().weight:
            raise UnsupportedModelError(
                "Encoder and decoder must read the same embeddings, to which rows are added. Found"
                f" that the `{type(side).__name__}` of `{type(base).__name__}` has some of its own."
                " Set `tie_word_embeddings=True` where the model is loaded, if it was trained so."
            )


def _check_whole(base: transformers.PreTrainedModel) -> None:
    """Refuse a model that is not here as a whole."""
    for name, parameter in base.named_parameters():
        # of FSDP and of tensor parallelism; of DeepSpeed
        is_sharded = hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id")
        if is_sharded or parameter.device == torch.device("meta"):
            raise UnsupportedModelError(
                "The model must be in the memory of one process as a whole, because rows are added"
                f" to it. Found `{name}` sharded or offloaded. Extend the vocabulary before the"
                " model is divided, save both, and load them as you do now."
            )

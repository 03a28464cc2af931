"""Which tokens of a text a language model is scored on: masked ones, or each from those before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._lm_rows import RowLayout, tokenize
from hf_meta_adapters.evaluation._windows import length_limit, special_tokens_around

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["causal_lm_features", "masked_lm_features"]

_Choice: TypeAlias = Callable[[int, NDArray[np.int64]], NDArray[np.bool_]]
"""A function of the number of a text and its tokens that says which of them are scored."""

_MakeLayout: TypeAlias = Callable[[str], RowLayout]
"""A function that finds the layout of rows with the help of a text that is not empty."""


def masked_lm_features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    language: Language | None = None,
    seed: int = 0,
    mask_probability: float = 0.15,
    max_length: int | None = None,
) -> list[Feature]:
    """Mask a fixed choice of max(1, round(p·n)) of the n tokens of each text, by the mask token.

    The choice depends on `seed`, `language` and the number of the row only, so that every model
    with this tokenizer is scored on the same masks. Unknown tokens are never chosen: how probable
    they are says nothing about the text they stand for. A text that is too long is cut into
    windows; a window without a mask is left out.

    Args:
        tokenizer: With a mask token. One without offsets (not a fast one) gives characters by
            `characters_by_decoding`.
        texts: The texts.
        language: Their language.
        seed: Seed of the masks.
        mask_probability: The share p of tokens that is masked, in (0, 1].
        max_length: Tokens in a row, special tokens included; by default what the tokenizer allows,
            at most 512.

    Returns:
        Rows with `input_ids` and `attention_mask` and, for each place t, `targets` (the token that
        the logits at t are scored on, or −100) and `characters` (how many that token stands for);
        `example` is the number of the text.

    Raises:
        ConfigurationError: If there is no mask token, or an argument is out of its range.
        DataError: If there is nothing to score.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> vocabulary = {"?": 0, "#": 1, "habari": 2, "leo": 3}
        >>> words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(
        ...     tokenizer_object=words, unk_token="?", mask_token="#"
        ... )
        >>> (row,) = masked_lm_features(tokenizer, ["habari ya leo"], language="sw")
        >>> row["input_ids"], row["targets"], row["characters"]
        ([1, 0, 3], [2, -100, -100], [6.0, 0.0, 0.0])
    """
    if not 0 < mask_probability <= 1:
        raise ConfigurationError(
            f"`mask_probability` must be in (0, 1]. Found {mask_probability}. Use for example 0.15."
        )

    mask = tokenizer.mask_token_id
    if mask is None:
        raise ConfigurationError(
            "A masked language model is scored on masked tokens. Found a tokenizer without mask"
            " token. Use `causal_lm_features` for a causal model, or set `tokenizer.mask_token`."
        )

    def choose(number: int, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        # At least one mask, so that short texts count; but never more than there are known tokens.
        known = np.flatnonzero(tokens != tokenizer.unk_token_id)
        count = min(len(known), max(1, round(mask_probability * len(tokens))))

        chosen = np.zeros(len(tokens), dtype=bool)
        chosen[_random(seed, language, number).permutation(known)[:count]] = True
        return chosen

    def layout(text: str) -> RowLayout:
        before, after = special_tokens_around(tokenizer, text)
        return RowLayout(before, after, mask)

    return _features(tokenizer, texts, language, max_length, choose, layout)


def causal_lm_features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    language: Language | None = None,
    max_length: int | None = None,
) -> list[Feature]:
    """Prepare each text for the score of a causal model: every token after those before it.

    A row begins with what the tokenizer puts before a text, or else with its beginning-of-sequence
    token; where it has neither, the first token has no prediction, so neither its bits nor its
    characters count. The end of the text is not scored, nor are unknown tokens. A text that is too
    long is cut into windows, and the context begins anew.

    Args:
        tokenizer: The tokenizer. One without offsets gives characters by `characters_by_decoding`.
        texts: The texts.
        language: Their language, for the messages.
        max_length: Tokens in a row, special tokens included; by default what the tokenizer allows,
            at most 512.

    Returns:
        Rows like those of `masked_lm_features`.

    Raises:
        ConfigurationError: If `max_length` leaves no room for text.
        DataError: If there is nothing to score.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> vocabulary = {"?": 0, "<s>": 1, "habari": 2, "leo": 3}
        >>> words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(
        ...     tokenizer_object=words, unk_token="?", bos_token="<s>"
        ... )
        >>> (row,) = causal_lm_features(tokenizer, ["habari leo"], language="sw")
        >>> row["input_ids"], row["targets"]
        ([1, 2, 3], [2, 3, -100])
    """

    def choose(number: int, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        return tokens != tokenizer.unk_token_id

    def layout(text: str) -> RowLayout:
        before, _ = special_tokens_around(tokenizer, text)
        if not before and tokenizer.bos_token_id is not None:
            before = [tokenizer.bos_token_id]

        # Nothing follows: the end of a text is not scored, and a causal model cannot see it.
        return RowLayout(before, after=())

    return _features(tokenizer, texts, language, max_length, choose, layout)


def _features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    language: Language | None,
    max_length: int | None,
    choose: _Choice,
    make_layout: _MakeLayout,
) -> list[Feature]:
    limit = length_limit(tokenizer, max_length)

    features: list[Feature] = []
    layout: RowLayout | None = None
    for example, text in enumerate(tokenize(tokenizer, texts)):
        if not len(text.tokens):
            continue

        # Once is enough: what a tokenizer puts around a text does not depend on the text.
        if layout is None:
            layout = make_layout(text.text)
        scored = choose(example, text.tokens)
        for row in layout.rows(text, scored, limit):
            features.append({"example": example, **row})

    if not features:
        of_language = f" of language {language!r}" if language else ""
        raise DataError(
            f"A language model needs text to be scored on. Found no token to score in {len(texts)}"
            f" texts{of_language}. Pass texts with letters that the tokenizer knows."
        )
    return features


def _random(seed: int, language: Language | None, row: int) -> np.random.Generator:
    # A separate generator for each row: its masks do not depend on the rows before it.
    digest = hashlib.sha256(f"{seed}/{language}/{row}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))

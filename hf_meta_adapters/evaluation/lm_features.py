"""Which tokens of a text a language model is scored on: masked ones, or each after those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._characters import characters_by_decoding, characters_by_offsets
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._windows import length_limit, special_tokens_around, windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NOT_SCORED", "causal_lm_features", "masked_lm_features"]

NOT_SCORED = -100


def masked_lm_features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    language: Language | None = None,
    seed: int = 0,
    mask_probability: float = 0.15,
    max_length: int | None = None,
) -> list[Feature]:
    """Mask a fixed choice of the tokens of each text: max(1, round(p·n)) of n, all replaced by the mask token.

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
        >>> words = Tokenizer(models.WordLevel({"?": 0, "#": 1, "habari": 2, "leo": 3}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", mask_token="#")
        >>> (row,) = masked_lm_features(tokenizer, ["habari ya leo"], language="sw")
        >>> row["input_ids"], row["targets"], row["characters"]
        ([1, 0, 3], [2, -100, -100], [6.0, 0.0, 0.0])
    """
    if not 0 < mask_probability <= 1:
        raise ConfigurationError(
            f"`mask_probability` must be in (0, 1]. Found {mask_probability}. Write for example"
            " 0.15."
        )
    mask = tokenizer.mask_token_id
    if mask is None:
        raise ConfigurationError(
            "A masked language model is scored on masked tokens. Found a tokenizer without mask"
            " token. Use `causal_lm_features` for a causal model, or set `tokenizer.mask_token`."
        )

    def choose(row: int, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        known = np.flatnonzero(tokens != tokenizer.unk_token_id)
        count = min(len(known), max(1, round(mask_probability * len(tokens))))
        chosen = np.zeros(len(tokens), dtype=bool)
        chosen[_random(seed, language, row).permutation(known)[:count]] = True
        return chosen

    return _features(tokenizer, texts, language, max_length, choose, mask)


def causal_lm_features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    language: Language | None = None,
    max_length: int | None = None,
) -> list[Feature]:
    """Prepare each text for the score of a causal language model: every token after those before it.

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
        Rows as those of `masked_lm_features`.

    Raises:
        ConfigurationError: If `max_length` leaves no room for text.
        DataError: If there is nothing to score.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"?": 0, "<s>": 1, "habari": 2, "leo": 3}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", bos_token="<s>")
        >>> (row,) = causal_lm_features(tokenizer, ["habari leo"], language="sw")
        >>> row["input_ids"], row["targets"]
        ([1, 2, 3], [2, 3, -100])
    """

    def choose(row: int, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        return tokens != tokenizer.unk_token_id

    return _features(tokenizer, texts, language, max_length, choose)


def _features(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    language: Language | None,
    max_length: int | None,
    choose: Callable[[int, NDArray[np.int64]], NDArray[np.bool_]],
    mask: int | None = None,
) -> list[Feature]:
    """Return the rows of the texts; without `mask`, those of a causal model."""
    limit = length_limit(tokenizer, max_length)
    features: list[Feature] = []
    around: tuple[list[int], list[int]] | None = None
    for example, (text, tokens, characters) in enumerate(_tokenize(tokenizer, texts)):
        if not len(tokens):
            continue
        around = around or _surroundings(tokenizer, text, causal=mask is None)
        scored = choose(example, tokens)
        for window, _ in windows([1] * len(tokens), limit - len(around[0]) - len(around[1])):
            part = slice(window.start, window.stop)
            row = _row(tokens[part], scored[part], characters[part], around, mask)
            if any(target != NOT_SCORED for target in row["targets"]):
                features.append({"example": example, **row})
    if not features:
        raise DataError(
            f"A language model needs text to be scored on. Found no token to score in {len(texts)}"
            f" texts{f' of language {language!r}' if language else ''}. Pass texts with letters"
            " that the tokenizer knows."
        )
    return features


def _row(
    tokens: NDArray[np.int64],
    scored: NDArray[np.bool_],
    characters: NDArray[np.float64],
    around: tuple[list[int], list[int]],
    mask: int | None,
) -> Feature:
    before, after = around
    text = tokens if mask is None else np.where(scored, mask, tokens)
    input_ids = [*before, *text.tolist(), *after]
    first = len(before) - (mask is None)  # the logits of a causal model belong to the next token
    targets, counts = [NOT_SCORED] * len(input_ids), [0.0] * len(input_ids)
    for index in np.flatnonzero(scored):
        if first + index >= 0:
            targets[first + index], counts[first + index] = (
                int(tokens[index]),
                float(characters[index]),
            )
    return {
        "input_ids": input_ids,
        "attention_mask": [1] * len(input_ids),
        "targets": targets,
        "characters": counts,
    }


def _surroundings(
    tokenizer: PreTrainedTokenizerBase, text: str, *, causal: bool
) -> tuple[list[int], list[int]]:
    before, after = special_tokens_around(tokenizer, text)
    if not causal:
        return before, after
    if not before and tokenizer.bos_token_id is not None:
        before = [tokenizer.bos_token_id]
    return before, []


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """Yield each text with its tokens, special ones left out, and how many characters each stands for."""
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    for text in texts:
        encoding = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **options)
        tokens = encoding["input_ids"]
        if tokenizer.is_fast:
            characters = characters_by_offsets(len(text), encoding["offset_mapping"])
        else:
            characters = characters_by_decoding(
                len(text), [str(tokenizer.decode([token])) for token in tokens]
            )
        yield text, np.array(tokens, dtype=np.int64), characters


def _random(seed: int, language: Language | None, row: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{language}/{row}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))

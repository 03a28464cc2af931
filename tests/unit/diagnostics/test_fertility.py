"""Tokens per word and per character."""

from __future__ import annotations

import json
import math

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters.diagnostics.fertility import tokenizer_fertility
from hf_meta_adapters.errors import ConfigurationError, DataError


def pieces(*known, **options):
    """A tokenizer that takes the longest known pieces from the left."""
    vocabulary = {piece: number for number, piece in enumerate(("[UNK]", *known))}
    model = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=""))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", **options)


def by_bytes():
    """A tokenizer of bytes: most characters are several tokens, and none is unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model)


def test_counts_by_hand():
    tokenizer = pieces("the", "cat", "ma", "j", "i")
    texts = {"en": ["the cat", "the the"], "sw": ["maji mto"]}
    report = tokenizer_fertility(tokenizer, iter_once(texts))
    english, swahili = report.rows

    # the, cat, the, the
    assert (english.tokens, english.words, english.characters) == (4, 4, 12)
    assert (english.per_word, english.per_character) == (1.0, 4 / 12)
    assert (english.unknown, english.single_characters) == (0.0, 0.0)

    # ma, j, i, [UNK]
    assert (swahili.tokens, swahili.words, swahili.characters) == (4, 2, 7)
    assert (swahili.per_word, swahili.per_character) == (2.0, 4 / 7)
    assert (swahili.unknown, swahili.single_characters) == (0.25, 0.5)


def iter_once(texts):
    """Texts as a stream gives them."""
    return {language: iter(several) for language, several in texts.items()}


def test_parts_of_a_character_count_as_single_characters():
    (row,) = tokenizer_fertility(by_bytes(), {"hi": ["नमस्ते"]}).rows
    assert row.tokens == len("नमस्ते".encode())
    assert (row.single_characters, row.unknown) == (1.0, 0.0)


def test_special_tokens_do_not_count():
    tokenizer = pieces("the", "[CLS]", cls_token="[CLS]")
    (row,) = tokenizer_fertility(tokenizer, {"en": ["the"]}).rows
    assert row.tokens == 1


def test_no_tokens_per_word_without_spaces():
    text = "ภาษาไทยเป็นภาษาที่เขียนโดยไม่มีช่องว่าง"
    report = tokenizer_fertility(by_bytes(), {"th": [text], "en": ["by words"]})
    assert math.isnan(report.rows[0].per_word)
    assert "| th | – |" in report.to_markdown()
    assert report.to_dict()["rows"][0]["per_word"] is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_advice_names_who_is_served_badly_and_why():
    tokenizer = pieces("the", "cat", "ma", "j", "i", "a", "b")
    report = tokenizer_fertility(
        tokenizer, {"en": ["the cat"], "sw": ["ma ma ma ma i i mto"], "xx": ["a b a b"]}
    )
    swahili, other = report.advice()
    assert swahili.startswith("sw: 14.3% of its tokens are unknown")
    assert "single" not in swahili
    assert other.startswith("xx: 100% of its tokens are single characters; 3.0 times as many")
    assert report.to_markdown().endswith(other)


def test_no_advice_where_all_is_well():
    assert tokenizer_fertility(pieces("the", "cat"), {"en": ["the cat"]}).advice() == ()


def test_a_picture_of_every_language(tmp_path):
    report = tokenizer_fertility(pieces("the"), {"en": ["the"], "sw": ["the the"]})
    axes = report.plot(tmp_path / "fertility.png")
    assert len(axes.patches) == 2
    assert (tmp_path / "fertility.png").stat().st_size > 0


def test_a_language_without_text_is_named():
    with pytest.raises(DataError, match="'sw'"):
        tokenizer_fertility(pieces("the"), {"en": ["the"], "sw": [" "]})


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigurationError, match="`Slow`"):
        tokenizer_fertility(Slow(), {"en": ["the"]})

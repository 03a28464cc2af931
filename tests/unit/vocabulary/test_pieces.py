"""Pieces of a new language in tokenizers of every kind."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from hf_meta_adapters import extend_vocabulary
from hf_meta_adapters.diagnostics.fertility import tokenizer_fertility
from tests.unit.vocabulary.cases import KINDS, english, letters, verses

SIZE = 60


def model_for(tokenizer, spare: int = 0) -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    return BertModel(BertConfig(vocab_size=len(tokenizer) + spare, intermediate_size=4, **sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_takes_fewer_tokens_also_in_text_that_was_not_seen(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = english(kind)
    before, old = tokenizer_fertility(tokenizer, held_out()), tokenizer.get_vocab()

    added = extend_vocabulary(model_for(tokenizer), tokenizer, verses("sw"), SIZE)

    after = tokenizer_fertility(tokenizer, held_out())
    assert after.rows[0].per_word < 0.85 * before.rows[0].per_word
    assert added.tokens_after < 0.85 * added.tokens_before
    # of English little changes
    assert 0.9 * before.rows[1].per_word < after.rows[1].per_word <= before.rows[1].per_word

    # old tokens keep their places, and new ones follow without a gap
    present = tokenizer.get_vocab()
    assert {token: present[token] for token in old} == old
    assert (
        added.ids
        == tuple(range(len(old), len(old) + SIZE))
        == tuple(map(present.get, added.pieces))
    )
    assert len(tokenizer) == len(old) + SIZE

    # text comes back, added tokens are found, and all of it is saved
    text = f"{verses('sw', 'test')[3]}<extra>"
    encoded = tokenizer(text)["input_ids"]
    assert encoded[-1] == old["<extra>"]
    assert set(encoded) & set(added.ids)
    assert tokenizer.decode(encoded).replace(" ", "") == text.replace(" ", "")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == encoded
    assert loaded.get_vocab() == present


def held_out() -> dict[str, tuple[str, ...]]:
    return {key: verses(key, "test", 200) for key in ("sw", "en")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_that_was_unknown_is_known(kind: str) -> None:
    tokenizer = english(kind)
    before = tokenizer_fertility(tokenizer, {"ru": verses("ru", "test", 100)}).rows[0]
    extend_vocabulary(model_for(tokenizer), tokenizer, verses("ru"), 200)
    after = tokenizer_fertility(tokenizer, {"ru": verses("ru", "test", 100)}).rows[0]
    if before.unknown:
        assert before.unknown > 0.3
        assert after.unknown < 0.1
    else:
        assert after.per_word < 0.5 * before.per_word  # it was bytes


def merged_in_turn(words: list[str], number: int) -> list[str]:
    """The pieces of BPE by its definition, with the most frequent pair searched anew each time."""
    counts = Counter(tuple(word) for word in words)
    pieces = []
    for _ in range(number):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        (left, right), _ = pairs.most_common(1)[0]
        pieces.append(left + right)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in counts.items():
            parts, place = [], 0
            while place < len(word):
                is_pair = word[place : place + 2] == (left, right)
                parts.append(left + right if is_pair else word[place])
                place += 2 if is_pair else 1
            merged[tuple(parts)] += count
        counts = merged
    return pieces


def test_merges_are_those_of_the_definition() -> None:
    # no two pairs are equally frequent
    words = ["abc"] * 9 + ["abd"] * 5 + ["xyz"] * 12 + ["xyabc"] * 2
    tokenizer = letters()
    added = extend_vocabulary(model_for(tokenizer), tokenizer, words, 4)
    assert list(added.pieces) == merged_in_turn(words, 4) == ["ab", "xy", "xyz", "abc"]
    assert tokenizer.tokenize("xyabcd") == ["xy", "abc", "d"]
    assert (added.tokens_before, added.tokens_after) == (88, 9 + 10 + 12 + 4)


def test_merges_go_on_from_old_ones_and_a_second_time() -> None:
    tokenizer = letters()
    model = model_for(tokenizer)
    extend_vocabulary(model, tokenizer, ["abab"] * 4 + ["ab"], 1)
    added = extend_vocabulary(model, tokenizer, ["abab"] * 4 + ["abc"] * 3, 2)
    assert added.pieces == ("abab", "abc")
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert merges == [["a", "b"], ["ab", "ab"], ["ab", "c"]]
    assert model.config.vocab_size == len(tokenizer) == 32


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece"])
def test_pieces_that_save_most_are_chosen(kind: str) -> None:
    """Fewer pieces are a worse choice, and any other choice of as many is, too."""
    few, many = english(kind), english(kind)
    some = extend_vocabulary(model_for(few), few, verses("sw"), 20)
    more = extend_vocabulary(model_for(many), many, verses("sw"), 80)
    assert more.tokens_after < some.tokens_after < some.tokens_before

    used = Counter(number for text in verses("sw") for number in few(text)["input_ids"])
    assert min(used[number] for number in some.ids) > 20  # none is idle

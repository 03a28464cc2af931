"""Words that are tokenized one by one, by tokenizers that keep the space before them or lose it."""

from __future__ import annotations

import re
import warnings

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters.evaluation import NER, POS

from .conftest import KINDS, LINES, train_tokenizer

SENTENCES = {key: [re.findall(r"[^\W\d_]+", line)] for key, line in LINES.items()}
WITHOUT_SPACES = {
    "zh": ["清华", "大学", "在", "北京", "吗", "中国"],
    "ja": ["アンナ", "は", "東京", "に", "ひらがな", "カタカナ"],
    "th": ["แอนนา", "เกิด", "ที่", "กรุงเทพ", "ประเทศ", "ไทย"],
}
LLAMA_3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    """A byte-level BPE that cuts running text by this pre-tokenizer, as in its own training."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        LINES.values(),
        trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


def tagged(sentences: list[list[str]]) -> list[dict[str, list[str]]]:
    return [{"tokens": words, "tags": ["O"] * len(words)} for words in sentences]


@pytest.mark.parametrize("language", LINES)
@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre_tokenizers.ByteLevel(add_prefix_space=False), LLAMA_3],
    ids=["gpt-2", "llama-3"],
)
def test_a_lost_space_is_named_once_with_the_pieces_on_both_sides(
    pre_tokenizer: pre_tokenizers.PreTokenizer, language: str
) -> None:
    tokenizer = byte_level(pre_tokenizer)
    (words,) = SENTENCES[language]
    pairs = [words[i : i + 2] for i in range(0, len(words) - 1, 2)]

    # the library `tokenizers` alone, word by word
    raw = tokenizer.backend_tokenizer
    apart = sum(len(raw.encode(word)) for pair in pairs for word in pair)
    in_text = sum(len(raw.encode(" ".join(pair))) for pair in pairs)

    with pytest.warns(UserWarning, match="add_prefix_space=True") as caught:
        NER().features(tagged([words]), tokenizer, language=language)

    (warning,) = caught
    assert f"{language!r}, {apart} pieces where running text has {in_text}," in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("language", LINES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_that_keep_the_space_are_left_alone(kind: str, language: str) -> None:
    tokenizer = train_tokenizer(kind, list(LINES.values()))
    assert NER().features(tagged(SENTENCES[language]), tokenizer, language=language)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre_tokenizers.ByteLevel(add_prefix_space=False), LLAMA_3],
    ids=["gpt-2", "llama-3"],
)
def test_the_remedy_of_the_warning_gives_the_pieces_of_running_text(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
) -> None:
    tokenizer = byte_level(pre_tokenizer)
    (words,) = SENTENCES["ru"]
    in_text = tokenizer(" " + " ".join(words))["input_ids"]

    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend(" ")
    (row,) = NER().features(tagged([words]), tokenizer, language="ru")
    assert row["input_ids"] == in_text


@pytest.mark.parametrize("language", WITHOUT_SPACES)
def test_scripts_without_spaces_have_none_to_lose(language: str) -> None:
    """There, words joined by spaces are not running text, and words without one before are."""
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert NER().features(tagged([WITHOUT_SPACES[language]]), tokenizer, language=language)


def test_punctuation_leans_on_its_neighbours() -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    data = [{"tokens": ["Newton", ",", "born", "."], "tags": ["PROPN", "PUNCT", "VERB", "PUNCT"]}]
    assert POS().features(data, tokenizer, language="en")


def test_a_piece_that_spans_two_words_is_no_lost_space() -> None:
    """As in SuperBPE: no setting gives such pieces to words that come one by one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    lines = [*["habari ya leo"] * 9, *["Julius"] * 9, *["Mwalimu"] * 9]
    made.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    sentence = ["habari", "ya", "Julius", "Mwalimu"]

    spanning = [piece for piece in tokenizer("habari ya").tokens() if "▁" in piece[1:]]
    assert spanning
    assert NER().features(tagged([sentence]), tokenizer, language="sw")

    # the same tokenizer without a mark at the beginning of a word loses it everywhere
    never = pre_tokenizers.Metaspace(split=False, prepend_scheme="never")
    tokenizer.backend_tokenizer.pre_tokenizer = never
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        NER().features(tagged([sentence]), tokenizer, language="sw")
    assert len(caught) == 1

"""Scores where the adapter of a row is that of the language that is detected in it."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters import evaluate_languages
from hf_meta_adapters.data.detection import LanguageDetection
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.adapted import adapted, stirred
from tests.tiny import tiny

WORDS = ["<pad>", "<s>", "</s>", *"abcdefgh"]
DATA = {
    "en": [{"text": text} for text in ("a b c d", "b c a a", "c b e a")],
    "sw": [{"text": text} for text in ("e f g h", "f a h e")],
}


def tokenizer():
    words = {word: number for number, word in enumerate(WORDS)}
    letters = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def by_letters(texts):
    return ["sw" if sum(text.count(letter) for letter in "efgh") > 1 else "en" for text in texts]


def scores(model, adapters, data=DATA, **options):
    return evaluate_languages(
        model, "causal_lm", data, processing_class=tokenizer(), adapters=adapters, **options
    )


def test_rows_run_in_the_language_of_their_text():
    model = stirred(adapted("llama", "lora"))
    right = scores(model, None)
    found = scores(model, LanguageDetection(by_letters))
    assert found.scores == right.scores
    assert found.details == {"detected": {"en": {"en": 3}, "sw": {"sw": 2}}}
    assert "detected" not in right.details

    # rows that are mixed up come back in order
    mixed = scores(model, LanguageDetection(by_letters), {"both": [*DATA["sw"], *DATA["en"]]})
    bits = [*right.per_example["sw"]["bits"], *right.per_example["en"]["bits"]]
    assert mixed.per_example["both"]["bits"] == pytest.approx(bits)
    assert mixed.details == {"detected": {"both": {"sw": 2, "en": 3}}}


def test_a_wrong_detector_is_the_wrong_adapter():
    model = stirred(adapted("llama", "lora"))
    other = {"en": "sw", "sw": "en"}
    swapped = LanguageDetection(lambda texts: [other[key] for key in by_letters(texts)])
    assert scores(model, swapped).scores == scores(model, other).scores


def test_what_cannot_be_detected_is_refused():
    model = adapted("llama", "lora")
    with pytest.raises(LanguageError, match="Found row 0"):
        scores(model, LanguageDetection(lambda texts: ["xx"] * len(texts)))
    fallback = LanguageDetection(lambda texts: ["xx"] * len(texts), fallback="sw")
    assert scores(model, fallback).details["detected"] == {"en": {"sw": 3}, "sw": {"sw": 2}}

    with pytest.raises(ConfigurationError, match=r"""must be "auto".* Found 'other'"""):
        scores(model, "other")
    with pytest.raises(ConfigurationError, match="needs a model with language adapters"):
        scores(tiny("llama").make(), LanguageDetection(by_letters))
    with pytest.raises(LanguageError, match="one of this model"):
        scores(model, LanguageDetection(by_letters), source_language="fr")

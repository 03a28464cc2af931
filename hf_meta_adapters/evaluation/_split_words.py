"""A sign that words which are tokenized one by one are cut otherwise than in running text."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["warn_if_cut_otherwise"]

_PAIRS = 32
"""How many pairs of neighbouring words are compared."""

_WRITTEN_WITHOUT_SPACES = (
    *("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI", "IDEOGRAPHIC", "HALFWIDTH KATAKANA"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI", "NEW TAI"),
)
"""How the Unicode names of letters begin in scripts that put no space between words."""


def warn_if_cut_otherwise(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]], language: Language
) -> None:
    """Warn if a tokenizer loses the space before words that are given one by one.

    A byte-level BPE has one piece for " house" and others for "house". Without `add_prefix_space`,
    it cuts a word that comes alone into those that begin a text, hardly ever seen in pretraining.
    See https://github.com/huggingface/transformers/issues/9607.

    Args:
        tokenizer: The tokenizer.
        sentences: The words of each example.
        language: Their language, for the message.
    """
    apart, in_text = 0, 0
    for pair in islice(_pairs(sentences), _PAIRS):
        split = tokenizer(
            [*pair], is_split_into_words=True, add_special_tokens=False, verbose=False
        )["input_ids"]
        text = tokenizer(" ".join(pair), add_special_tokens=False, verbose=False)["input_ids"]

        # One pair cut alike has kept its space. Others may differ for another reason, such as a
        # piece that spans two words, which no setting can give to words that come one by one.
        if split == text:
            return

        apart, in_text = apart + len(split), in_text + len(text)

    if apart:
        warnings.warn(
            "Words that are tokenized one by one must be cut as in running text. Found a tokenizer"
            f" that loses the space before them: in language {language!r}, {apart} pieces where"
            f" running text has {in_text}, and no two neighbouring words cut alike. Load it by"
            " `AutoTokenizer.from_pretrained(..., add_prefix_space=True)`. Where that changes"
            ' nothing, as for Llama 3, put `tokenizers.normalizers.Prepend(" ")` before the'
            " normalizer of `tokenizer.backend_tokenizer`, where it has one.",
            UserWarning,
            stacklevel=3,
        )


def _pairs(sentences: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield neighbouring words that a space separates in running text, each word at most once."""
    for words in sentences:
        for first, second in zip(words[::2], words[1::2], strict=False):
            if _has_space_around(first) and _has_space_around(second):
                yield first, second


def _has_space_around(word: str) -> bool:
    """Whether running text has a space on both sides of a word, so that joining by one is right.

    Punctuation leans on its neighbours, and scripts such as Chinese and Thai have no such spaces:
    there, a word without one before it is right.
    """
    if not word[:1].isalpha():
        return False

    return not any(
        unicodedata.name(letter, "").startswith(_WRITTEN_WITHOUT_SPACES) for letter in word
    )

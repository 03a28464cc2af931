"""Exact match and F1 between answers: the rules of SQuAD v1.1, and of MLQA for other languages."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

from hf_meta_adapters._typing import Language

__all__ = ["answer_f1", "best_match", "exact_match", "normalize_answer"]

_ENGLISH = re.compile(r"\b(?:a|an|the)\b")
_ARTICLES = {
    "en": _ENGLISH,
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),
    "fr": re.compile(r"\b(?:un|une|le|la|les|du|des)\b"),
}

# French l', removed before punctuation: without its apostrophe it would be part of the noun.
_ELIDED = re.compile(r"\bl['’]")

_UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})

# Han (in the range of MLQA), kana, Thai and Lao, Myanmar, Khmer
_UNSPACED_LETTER = re.compile(
    r"([\u4e00-\u9fa5\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])"
)


def normalize_answer(text: str, language: Language | None = None) -> str:
    """Lower-case an answer, then drop its punctuation, its articles and its surplus spaces.

    With a language, the rules are those of MLQA (Lewis et al., 2020): all punctuation of Unicode,
    the articles of the language (en, es, de, vi; every ال in ar; none elsewhere), and in languages
    written without spaces each letter is a separate word (zh; here also ja, th, lo, km and my).
    The rules of French are ours: un, une, le, la, les, du, des and l'. Without a language, the
    rules are those of SQuAD v1.1 (Rajpurkar et al., 2016): ASCII punctuation and English articles.

    Args:
        text: The answer.
        language: Its language; only the part before the first `-` or `_` counts.

    Returns:
        The words of the answer, joined by single spaces.

    Example:
        >>> normalize_answer("The  U.S.A.!"), normalize_answer("L’eau, une fois", "fr")
        ('usa', 'eau fois')
        >>> normalize_answer("北京", "zh")
        '北 京'
    """
    text = text.lower()
    if language is None:
        text = _ENGLISH.sub(" ", text.translate(_ASCII))
        return " ".join(text.split())

    base = re.split("[-_]", language.lower())[0]
    if base == "fr":
        text = _ELIDED.sub(" ", text)
    text = text.translate(_punctuation())

    if base in _ARTICLES:
        text = _ARTICLES[base].sub(" ", text)
    if base in _UNSPACED:
        text = _UNSPACED_LETTER.sub(r" \1 ", text)

    return " ".join(text.split())


def exact_match(prediction: str, reference: str, language: Language | None = None) -> float:
    """Return 1 if both answers are the same after `normalize_answer`, else 0."""
    return float(normalize_answer(prediction, language) == normalize_answer(reference, language))


def answer_f1(prediction: str, reference: str, language: Language | None = None) -> float:
    """Return 2·c / (p + r): words in common, of the prediction and of the reference, as bags.

    As in SQuAD v1.1 it is 0 where nothing is in common, even where both are empty.
    """
    predicted = normalize_answer(prediction, language).split()
    expected = normalize_answer(reference, language).split()

    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    return 2 * common / (len(predicted) + len(expected))


def best_match(
    measure: Callable[[str, str, Language | None], float],
    prediction: str,
    references: Iterable[str],
    language: Language | None = None,
) -> float:
    """Return the best value of `measure` over the references of a question; 0 without any."""
    return max((measure(prediction, reference, language) for reference in references), default=0.0)


_ASCII = dict.fromkeys(map(ord, string.punctuation))


@lru_cache(maxsize=1)
def _punctuation() -> dict[int, None]:
    """Every code point of Unicode's categories P*, and what ASCII calls punctuation."""
    # Cached: this goes through a million code points. ASCII comes on top because Unicode counts
    # `$`, `+` and a few more among the symbols.
    punctuation = [
        code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")
    ]
    return _ASCII | dict.fromkeys(punctuation)

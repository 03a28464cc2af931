"""Exact match and F1 between answers: the rules of SQuAD v1.1, and those of MLQA for other languages."""

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
_ELIDED = re.compile(
    r"\bl['’]"
)  # French l'; without its apostrophe it could no longer be told from the noun
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})
_UNSPACED_LETTER = re.compile(  # Han (as MLQA has it), kana, Thai and Lao, Myanmar, Khmer
    r"([\u4e00-\u9fa5\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])"
)


def normalize_answer(text: str, language: Language | None = None) -> str:
    """Lower-case an answer and drop its punctuation, its articles and its surplus spaces, in this order.

    With a language, the rules are those of MLQA (Lewis et al., 2020): all punctuation of Unicode,
    the articles of the language (en, es, de, vi; every ال in ar; none elsewhere), and in languages
    written without spaces each letter is a word of its own (zh; here ja, th, lo, km and my, too).
    French is ours: un, une, le, la, les, du, des and l'. Without a language they are those of SQuAD
    v1.1 (Rajpurkar et al., 2016): ASCII punctuation and English articles.

    Args:
        text: The answer.
        language: Its language; only the part before the first `-` or `_` counts.

    Returns:
        The words of the answer, joined by single spaces.

    Example:
        >>> normalize_answer("The  U.S.A.!"), normalize_answer("L’eau, une fois", "fr"), normalize_answer("北京", "zh")
        ('usa', 'eau fois', '北 京')
    """
    text = text.lower()
    if language is None:
        return " ".join(_ENGLISH.sub(" ", text.translate(_ASCII)).split())
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
    """Return 2·c / (p + r): words in common, of the prediction and of the reference, counted as bags.

    As in SQuAD v1.1 it is 0 where nothing is in common, also where both are empty.
    """
    predicted = normalize_answer(prediction, language).split()
    expected = normalize_answer(reference, language).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def best_match(
    measure: Callable[[str, str, Language | None], float],
    prediction: str,
    references: Iterable[str],
    language: Language | None = None,
) -> float:
    """Return the best value of `measure` over the references of a question; 0 where there is none."""
    return max((measure(prediction, reference, language) for reference in references), default=0.0)


_ASCII = dict.fromkeys(map(ord, string.punctuation))


@lru_cache(maxsize=1)
def _punctuation() -> dict[int, None]:
    """Every code point of Unicode's categories P*, and what ASCII calls punctuation."""
    return _ASCII | dict.fromkeys(
        c for c in range(sys.maxunicode) if unicodedata.category(chr(c)).startswith("P")
    )

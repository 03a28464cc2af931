"""Words of a text as a tokenizer sees them, and the pieces that it gets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

_AT_SPACES = re.compile(r"▁+[^▁]*|[^▁]+")
"""A word of tokenizers that write a space as `▁` and do not split there themselves."""

_LINE = 1_000
"""The most words in one line that a trainer reads."""

Document = dict[str, Any]
"""A tokenizer as JSON, the form in which `tokenizers` lets all of it be changed."""


@dataclass
class NewPieces:
    """A vocabulary that is being extended.

    Args:
        document: The tokenizer; its model has the new pieces.
        sources: New piece → the identifiers of the old pieces that it is put together from.
    """

    document: Document
    sources: dict[str, list[int]] = field(default_factory=dict)


def with_places(backend: Tokenizer) -> Document:
    """The JSON of a tokenizer of BPE or WordPiece, whose model also lists the added tokens.

    Otherwise they would be numbered anew, from the size of the model on, which new pieces change.
    """
    document = document_of(backend)
    vocabulary: dict[str, int] = document["model"]["vocab"]
    for token in document["added_tokens"]:
        vocabulary.setdefault(token["content"], token["id"])

    return document


def document_of(backend: Tokenizer) -> Document:
    """The JSON of a tokenizer."""
    document: Document = json.loads(backend.to_str())
    return document


def tokenizer_of(document: Mapping[str, object]) -> Tokenizer:
    """The tokenizer of a JSON document."""
    return Tokenizer.from_str(json.dumps(document))


def count_words(backend: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, normalized and separated as by the tokenizer.

    Args:
        backend: The tokenizer.
        texts: The texts.

    Returns:
        word → how often it occurs.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)

        parts = [text]
        if backend.pre_tokenizer is not None:
            parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        for part in parts:
            counts.update(_AT_SPACES.findall(part))

    return counts


def lines(counts: Mapping[str, int]) -> Iterator[str]:
    """Every word as often as it occurs, separated by line feeds, for a trainer to count again."""
    for word, count in sorted(counts.items()):
        if "\n" in word:
            continue  # blank lines hold no piece
        for start in range(0, count, _LINE):
            yield "\n".join([word] * min(_LINE, count - start))

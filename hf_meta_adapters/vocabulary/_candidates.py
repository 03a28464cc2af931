"""Pieces of Unigram and WordPiece: candidates trained on a language, of which the best stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hf_meta_adapters.vocabulary._pieces import (
    Document,
    NewPieces,
    document_of,
    lines,
    tokenizer_of,
    with_places,
)

_CANDIDATES = 4
_SPARE = 1_000
"""How many candidates there are: so many for each piece that is wanted, and some more."""

_UNKNOWN = "<unk>"
_FILLER_SCORE = -1e4
"""The score of an entry of Unigram that keeps a place for an added token, and is never chosen."""


def best_unigrams(
    backend: Tokenizer, counts: Mapping[str, int], size: int, first: int
) -> NewPieces:
    """Add the pieces of a Unigram model of the language that save most tokens.

    Args:
        backend: The old tokenizer.
        counts: word → how often it occurs.
        size: How many pieces to add at most.
        first: The identifier of the first of them.

    Returns:
        The extended vocabulary. The score of a piece is its log probability in the language.
    """
    old = document_of(backend)
    known = {piece for piece, _ in old["model"]["vocab"]}
    names = {number: token for token, number in backend.get_vocab().items()}
    # a piece is known by its place in the list, so that added tokens behind it need an entry there
    fillers = [
        [names.get(place, f"<unused {place}>"), _FILLER_SCORE]
        for place in range(len(old["model"]["vocab"]), first)
    ]

    trained = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=_CANDIDATES * size + _SPARE, show_progress=False, unk_token=_UNKNOWN
    )
    _train(trained, trainer, counts)
    scores = {
        piece: score
        for piece, score in document_of(trained)["model"]["vocab"]
        if piece not in known and piece != _UNKNOWN and piece not in names.values()
    }

    def extended(pieces: Sequence[str]) -> Document:
        entries = [[piece, scores[piece]] for piece in pieces]
        model = {**old["model"], "vocab": [*old["model"]["vocab"], *fillers, *entries]}
        return {**old, "model": model}

    def parts(piece: str) -> list[int]:
        return [token.id for token in backend.model.tokenize(piece)]

    unknown = old["model"].get("unk_id")
    return _select(scores, counts, size, extended, parts, unknown)


def best_wordpieces(
    backend: Tokenizer, counts: Mapping[str, int], size: int, first: int
) -> NewPieces:
    """Add the pieces of a WordPiece model of the language that save most tokens.

    Args:
        backend: The old tokenizer.
        counts: word → how often it occurs.
        size: How many pieces to add at most.
        first: The identifier of the first of them.

    Returns:
        The extended vocabulary.
    """
    old = with_places(backend)
    vocabulary: dict[str, int] = old["model"]["vocab"]
    prefix = old["model"]["continuing_subword_prefix"]
    unknown = vocabulary.get(old["model"]["unk_token"])

    trained = Tokenizer(models.WordPiece(unk_token=old["model"]["unk_token"]))
    trainer = trainers.WordPieceTrainer(
        vocab_size=_CANDIDATES * size + _SPARE,
        show_progress=False,
        continuing_subword_prefix=prefix,
    )
    _train(trained, trainer, counts)
    known = backend.get_vocab()
    candidates = sorted(set(document_of(trained)["model"]["vocab"]) - known.keys() - {prefix})

    def extended(pieces: Sequence[str]) -> Document:
        more = {piece: first + number for number, piece in enumerate(pieces)}
        return {**old, "model": {**old["model"], "vocab": {**vocabulary, **more}}}

    def parts(piece: str) -> list[int]:
        return _longest_first(piece, prefix, vocabulary, unknown)

    return _select(candidates, counts, size, extended, parts, unknown)


def _train(tokenizer: Tokenizer, trainer: Any, counts: Mapping[str, int]) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    tokenizer.train_from_iterator(lines(counts), trainer)


def _select(
    candidates: Sequence[str] | Mapping[str, float],
    counts: Mapping[str, int],
    size: int,
    extended: Callable[[Sequence[str]], Document],
    parts: Callable[[str], list[int]],
    unknown: int | None,
) -> NewPieces:
    """Halve the candidates until `size` are left, each time keeping those that save most.

    Pieces compete for the same words, so that what a piece saves depends on which others there are.
    """
    kept = list(candidates)
    sources = {piece: parts(piece) for piece in kept}

    while True:
        model = tokenizer_of(extended(kept)).model
        uses: Counter[str] = Counter()
        for word, count in counts.items():
            for token in model.tokenize(word):
                uses[token.value] += count

        savings = {}
        for piece in kept:
            # text that was unknown is worth a token of its own: it was lost
            lost = sum(part == unknown for part in sources[piece])
            savings[piece] = uses[piece] * (len(sources[piece]) - 1 + lost)

        useful = [piece for piece in kept if savings[piece] > 0 and uses[piece] > 1]
        useful.sort(key=lambda piece: (-savings[piece], piece))
        if len(useful) <= size and len(useful) == len(kept):
            return NewPieces(extended(kept), {piece: sources[piece] for piece in kept})

        kept = useful[: max(size, len(useful) // 2)]


def _longest_first(
    piece: str, prefix: str, vocabulary: Mapping[str, int], unknown: int | None
) -> list[int]:
    """A piece in those of the vocabulary, each the longest that fits; WordPiece cuts words so."""
    parts: list[int] = []
    rest = piece.removeprefix(prefix)
    # a piece that continues a word is made of others that do
    mark = prefix if piece.startswith(prefix) else ""

    while rest:
        ends = range(len(rest), 0, -1)
        end = next((end for end in ends if mark + rest[:end] in vocabulary), 0)
        if not end:
            return [] if unknown is None else [unknown]

        parts.append(vocabulary[mark + rest[:end]])
        rest, mark = rest[end:], prefix

    return parts

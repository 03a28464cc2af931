"""BPE continued on the text of a new language, from the pieces of the old vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hf_meta_adapters.vocabulary._pieces import (
    NewPieces,
    document_of,
    lines,
    tokenizer_of,
    with_places,
)

_FIRST_PRIVATE = 0xF0000
"""The first of 131,068 characters without a meaning, which stand for old pieces in training."""
_MOST_OLD = 2 * 65_534
_LEAST_COUNT = 2
_SPARE = 256


def continue_merges(
    backend: Tokenizer, counts: Mapping[str, int], size: int, first: int
) -> NewPieces:
    """Merge the most frequent pair of neighbouring pieces, again and again.

    This is the training of BPE, except that it begins with words in the pieces of the old
    vocabulary. The new merges come after the old ones, and so apply to the words in the order in
    which they were learned.

    Args:
        backend: The old tokenizer.
        counts: word → how often it occurs.
        size: How many pieces to add at most.
        first: The identifier of the first of them.

    Returns:
        The extended vocabulary; with fewer pieces if no pair occurs twice any more.
    """
    found = NewPieces(with_places(backend))
    _add_characters(found, backend, counts, size, first)
    extended = tokenizer_of(found.document)

    # each old piece becomes one character, which the trainer of the library starts from
    words = Counter(
        {
            tuple(token.value for token in extended.model.tokenize(word)): count
            for word, count in sorted(counts.items())
        }
    )
    known = sorted({piece for word in words for piece in word})[:_MOST_OLD]
    characters = {piece: chr(_private(number)) for number, piece in enumerate(known)}
    coded = {
        "".join(characters[piece] for piece in word): count
        for word, count in words.items()
        if len(word) > 1 and all(piece in characters for piece in word)
    }

    wanted = size
    while True:
        merges = _train(coded, len(characters) + wanted + _SPARE)
        added = _with_merges(found, merges, characters, size, first)
        # a merge may lead to a piece that was there already, and then adds none
        if len(added.sources) == size or len(merges) < wanted + _SPARE:
            return added
        wanted *= 2


def _add_characters(
    found: NewPieces, backend: Tokenizer, counts: Mapping[str, int], size: int, first: int
) -> None:
    """Add characters that the old vocabulary lacks, the most frequent ones first."""
    model = found.document["model"]
    # a character has other forms at the beginning or the end of a word then
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return

    frequencies: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            frequencies[character] += count

    missing = [
        character
        for character, count in sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
        if character not in model["vocab"] and count >= _LEAST_COUNT
    ]
    for number, character in enumerate(missing[:size]):
        # bytes, or the piece for what is unknown
        found.sources[character] = [token.id for token in backend.model.tokenize(character)]
        model["vocab"][character] = first + number


def _train(coded: Mapping[str, int], vocabulary: int) -> list[tuple[str, str]]:
    """The merges of a new BPE vocabulary, in order."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=_LEAST_COUNT, show_progress=False
    )
    trained.train_from_iterator(lines(coded), trainer)
    return [(left, right) for left, right in document_of(trained)["model"]["merges"]]


def _with_merges(
    start: NewPieces,
    merges: Sequence[tuple[str, str]],
    characters: Mapping[str, str],
    size: int,
    first: int,
) -> NewPieces:
    """The vocabulary with as many of the merges as add `size` pieces in all."""
    model = start.document["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    vocabulary, sources = dict(model["vocab"]), dict(start.sources)
    pieces = {character: piece for piece, character in characters.items()}
    parts = {
        character: sources.get(piece, [vocabulary[piece]]) for character, piece in pieces.items()
    }
    known = {tuple(pair) for pair in model["merges"]}

    added = []
    for left, right in merges:
        piece = pieces[left] + pieces[right].removeprefix(prefix)
        if piece not in vocabulary:
            if len(sources) == size:
                break
            vocabulary[piece] = first + len(sources)
            sources[piece] = parts[left] + parts[right]

        pieces[left + right], parts[left + right] = piece, parts[left] + parts[right]
        pair = (pieces[left], pieces[right])
        if pair not in known:
            known.add(pair)
            added.append(list(pair))

    changed = {**model, "vocab": vocabulary, "merges": [*model["merges"], *added]}
    return NewPieces({**start.document, "model": changed}, sources)


def _private(number: int) -> int:
    """The code point of a character for private use, of two planes that end with non-characters."""
    return _FIRST_PRIVATE + number + (2 if number >= _MOST_OLD // 2 else 0)

"""A tokenizer and a model, extended by pieces of a language that the old ones cut too finely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from hf_meta_adapters.vocabulary._candidates import best_unigrams, best_wordpieces
from hf_meta_adapters.vocabulary._checks import (
    check_choices,
    check_found,
    check_kept,
    check_same_vocabulary,
    checked_backend,
    checked_base,
    checked_texts,
)
from hf_meta_adapters.vocabulary._focus import check_focus, focus_rows
from hf_meta_adapters.vocabulary._merges import continue_merges
from hf_meta_adapters.vocabulary._pieces import count_words, tokenizer_of
from hf_meta_adapters.vocabulary._rows import add_rows, names_of_rows
from hf_meta_adapters.vocabulary.extension import VocabularyExtension

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

_TRAINING = {"BPE": continue_merges, "Unigram": best_unigrams, "WordPiece": best_wordpieces}


def extend_vocabulary(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    size: int,
    *,
    init: str = "mean",
) -> VocabularyExtension:
    """Add the `size` pieces to a tokenizer and a model that shorten the text of a language most.

    The pieces become part of the tokenizer's own model: merges of BPE, which go on from the old
    ones, entries of Unigram with their log probabilities, or entries of WordPiece. Old pieces keep
    their identifiers and their embeddings. Text of other languages is cut as before unless it
    contains new pieces.

    Both are changed in place. Afterwards make a new optimizer or Trainer, and save the tokenizer
    with the model. To train the new rows only, over a base that is frozen, extend the base first
    and pass `trainable_token_indices` of the result to the `LoraConfig` of `shared`.

    Args:
        model: A transformers model, or one with languages whose θ is no adapter.
        tokenizer: Its tokenizer, a fast one.
        texts: Texts of the language.
        size: How many pieces to add.
        init: What embeddings a piece begins with: `"mean"`, the mean of those of the old pieces
            that it is put together from, at the input and at the output; or `"focus"`, at the input
            a mixture of those of old pieces of similar meaning (needs `deepfocus`).

    Returns:
        The pieces, and what they save.

    Raises:
        ConfigurationError: If a value is senseless, the tokenizer is a slow one or has more tokens
            than the model, or θ is an adapter.
        DataError: If the texts are none, or too few for `size` pieces.
        UnsupportedModelError: If the embeddings are sharded, quantized or adapted. In all of these
            cases model and tokenizer stay as they were.

    Example:
        >>> from tokenizers import Tokenizer
        >>> from tokenizers.models import BPE
        >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        >>> from hf_meta_adapters import extend_vocabulary
        >>> letters = {letter: number for number, letter in enumerate("abghinr")}
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(letters, [])))
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        ...              intermediate_size=8, vocab_size=7)
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> added = extend_vocabulary(model, tokenizer, ["habari", "nahari", "bahari"], size=2)
        >>> added.pieces, model.config.vocab_size
        (('ar', 'ari'), 9)
        >>> tokenizer.tokenize("bahari")
        ['b', 'a', 'h', 'ari']
    """
    check_choices(size, init)
    if init == "focus":
        check_focus()
    backend = checked_backend(tokenizer)
    base = checked_base(model)
    listed = checked_texts(texts)

    first = max(tokenizer.get_vocab().values()) + 1
    check_same_vocabulary(base, first)

    counts = count_words(backend, listed)
    found = _TRAINING[type(backend.model).__name__](backend, counts, size, first)
    check_found(len(found.sources), size)

    extended = tokenizer_of(found.document)
    numbers = extended.get_vocab()
    check_kept(tokenizer.get_vocab(), numbers)
    pieces = sorted(found.sources, key=lambda piece: numbers[piece])
    ids = [numbers[piece] for piece in pieces]

    rows = None
    if init == "focus":
        embeddings: Any = base.get_input_embeddings()
        rows = focus_rows(tokenizer, extended, embeddings.weight, ids, listed)
    add_rows(base, ids, [found.sources[piece] for piece in pieces], rows)

    # transformers has no public way to exchange the tokenizer inside of one of its own
    fast: Any = tokenizer
    fast._tokenizer = extended
    return VocabularyExtension(
        pieces=tuple(pieces),
        ids=tuple(ids),
        tokens_before=_length(backend, counts),
        tokens_after=_length(extended, counts),
        token_indices={name: list(ids) for name in names_of_rows(base)},
    )


def _length(backend: Tokenizer, counts: Mapping[str, int]) -> int:
    """The tokens of all words together."""
    return sum(count * len(backend.model.tokenize(word)) for word, count in counts.items())

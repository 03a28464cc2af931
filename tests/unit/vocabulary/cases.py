"""A tokenizer of every kind, trained on English, and texts of another language."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from hf_meta_adapters.data import load_local_datasets

FIRST = 400
"""The size of a vocabulary before it is extended."""


@cache
def verses(language: str, role: str = "train", limit: int = 600) -> tuple[str, ...]:
    found = load_local_datasets("verses", role, languages=[language], limit=limit)
    return tuple(found[language]["text"])


def _byte_level() -> tuple[Tokenizer, Any, dict[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=FIRST, initial_alphabet=alphabet, show_progress=False)
    return tokenizer, trainer, {}


def _byte_fallback() -> tuple[Tokenizer, Any, dict[str, str]]:
    """As in Llama 2 and Gemma: spaces are characters, and nothing separates words."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # in training only
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=FIRST, special_tokens=special, show_progress=False)
    return tokenizer, trainer, {"unk_token": "<unk>"}


def _unigram() -> tuple[Tokenizer, Any, dict[str, str]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=FIRST, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return tokenizer, trainer, {"unk_token": "<unk>"}


def _wordpiece() -> tuple[Tokenizer, Any, dict[str, str]]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=FIRST, special_tokens=["[UNK]"], show_progress=False
    )
    return tokenizer, trainer, {"unk_token": "[UNK]"}


KINDS: dict[str, Callable[[], tuple[Tokenizer, Any, dict[str, str]]]] = {
    "byte-level BPE": _byte_level,
    "BPE with byte fallback": _byte_fallback,
    "Unigram": _unigram,
    "WordPiece": _wordpiece,
}


@cache
def _trained(kind: str) -> tuple[str, dict[str, str]]:
    tokenizer, trainer, names = KINDS[kind]()
    tokenizer.train_from_iterator(verses("en"), trainer)
    if kind == "BPE with byte fallback":
        tokenizer.pre_tokenizer = None
    return tokenizer.to_str(), names


def english(kind: str, added: Iterable[str] = ("<sep>", "<extra>")) -> PreTrainedTokenizerFast:
    """A tokenizer with added tokens behind its pieces, as T5 and Llama 3 have."""
    text, names = _trained(kind)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **names)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def letters(size: int = 29) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, as many as a tiny model has tokens."""
    pieces = [f"<{number}>" for number in range(size - 26)] + [chr(97 + n) for n in range(26)]
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, [])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))

"""The text of a diagnosis: read from files, and made into batches that gradients are taken from."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import transformers

from hf_meta_adapters._typing import Batch, Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["make_batches", "read_text_files"]


def read_text_files(
    folder: str | Path, *, limit: int | None = None, seed: int = 0
) -> dict[Language, list[str]]:
    """Read `<folder>/<language>.txt(.gz)`, one text a line, and choose texts at random.

    Args:
        folder: The folder.
        limit: The largest number of texts of a language; `None` for all.
        seed: The seed of the choice.

    Returns:
        Language → texts, in random order.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "sw.txt").write_text("Hapo mwanzo", encoding="utf-8")
        ...     read_text_files(folder)
        {'sw': ['Hapo mwanzo']}
    """
    texts = {}
    for path in sorted(Path(folder).glob("*.txt*")):
        with _open_text(path) as file:
            lines = [line.strip() for line in file if line.strip()]

        # Neighbouring lines are often of one document. A generator for each language, so that its
        # choice does not depend on the other languages.
        random.Random(seed).shuffle(lines)

        language = path.name.partition(".txt")[0]
        texts[language] = lines[:limit]

    return texts


def make_batches(
    texts: Mapping[Language, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    masked: bool,
    batches: int,
    batch_size: int,
    max_length: int,
    seed: int = 0,
) -> dict[Language, list[Batch]]:
    """Return the texts of each language in batches with labels, as a language model takes them.

    Args:
        texts: Language → texts.
        tokenizer: The tokenizer. One without a padding token gets its end of text for that.
        masked: Whether tokens are masked and predicted (masked language models); otherwise, every
            next token is predicted (causal ones).
        batches: The number of batches of a language with enough text.
        batch_size: The largest number of texts in a batch.
        max_length: The largest number of tokens of a text.
        seed: The seed of what is masked.

    Returns:
        Language → batches.

    Example:
        >>> from hf_meta_adapters.pretraining import train_tokenizer
        >>> texts = {"sw": ["Hapo mwanzo kulikuwako Neno."] * 5}
        >>> tokenizer = train_tokenizer(texts["sw"], vocabulary=60, max_length=16)
        >>> sizes = {"batches": 2, "batch_size": 8, "max_length": 16}
        >>> batches = make_batches(texts, tokenizer, masked=True, **sizes)
        >>> [len(batch["labels"]) for batch in batches["sw"]]
        [2, 2]
    """
    # Tokenizers of causal models, such as Llama's, often have no padding token.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=masked)
    transformers.set_seed(seed)

    batches_by_language = {}
    for language, lines in texts.items():
        rows = [tokenizer(line, truncation=True, max_length=max_length) for line in lines]

        # A language with little text gets smaller batches, not fewer of them: without two batches
        # there is no cosine within a language, and no interval.
        size = max(1, min(batch_size, len(rows) // batches))
        starts = range(0, len(rows) - size + 1, size)
        batches_by_language[language] = [collator(rows[k : k + size]) for k in starts]

    return batches_by_language


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")

    return path.open(encoding="utf-8")

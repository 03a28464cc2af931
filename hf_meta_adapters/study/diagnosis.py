"""The text of a diagnosis: read from files, made into batches, and scored text by text."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import transformers
from numpy.typing import ArrayLike, NDArray

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.errors import DataError, check_languages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["bits_of_texts", "make_batches", "read_text_files"]

_ENDINGS = (".txt", ".txt.gz")
_MOST_DRAWS = 100  # of the tokens to mask, until there is one


def read_text_files(
    folder: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    fewest: int = 1,
    seed: int = 0,
) -> dict[Language, list[str]]:
    """Read `<folder>/<language>.txt(.gz)`, one text a line, and choose texts at random.

    Args:
        folder: The folder.
        split: Read `<folder>/<language>/<split>.txt(.gz)` in place of those files.
        limit: The largest number of texts of a language; `None` for all.
        fewest: The smallest number of texts that a language must have.
        seed: The seed of the choice.

    Returns:
        Language → texts, in random order.

    Raises:
        DataError: If there is no file, one cannot be read, or a language has too little text.
        LanguageError: If the name of a file is no key of a language.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "sw.txt").write_text("Hapo mwanzo", encoding="utf-8")
        ...     read_text_files(folder)
        {'sw': ['Hapo mwanzo']}
    """
    files = _files(Path(folder), split)
    check_languages(files)

    texts = {}
    for language, path in files.items():
        lines = _read_lines(path)

        # Neighbouring lines are often of one document. A generator for each language, so that its
        # choice does not depend on the other languages.
        random.Random(seed).shuffle(lines)
        texts[language] = lines[:limit]

    few = {language: len(lines) for language, lines in texts.items() if len(lines) < fewest}
    if few:
        raise DataError(
            f"Every language needs at least {fewest} texts, one a line. Found {few} in {folder}."
            " Add text, or take these files out of the folder."
        )

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

    Texts of fewer than two tokens are left out: nothing can be predicted in them.

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

    Raises:
        DataError: If a language has no text of two tokens.

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
        rows = _rows(lines, tokenizer, max_length)
        if not rows:
            raise DataError(
                f"A language needs texts of two tokens at least. Found none in {len(lines)} texts"
                f" of {language!r}. Check whether the tokenizer knows its script."
            )

        # A language with little text gets smaller batches, not fewer of them: without two batches
        # there is no cosine within a language, and no interval.
        size = max(1, min(batch_size, len(rows) // batches))
        starts = range(0, len(rows) - size + 1, size)
        batches_by_language[language] = [_collate(collator, rows[k : k + size]) for k in starts]

    return batches_by_language


def bits_of_texts(bits: ArrayLike, characters: ArrayLike) -> NDArray[np.float64]:
    """Return for each text a number whose mean is Σ bits / Σ characters, for intervals.

    The mean of bits per character over texts is another measure, in which a short text counts as
    much as a long one. So this is the ratio R = Σ bits / Σ characters plus what text i adds to it,
    (bits_i − R characters_i) / mean characters: the linearisation by which the variance of a ratio
    is estimated.

    Args:
        bits: Bits of each text, shape (n,).
        characters: Characters that they were spent on, shape (n,).

    Returns:
        The numbers, shape (n,).

    Example:
        >>> bits_of_texts([2.0, 10.0], [1.0, 3.0]), 12 / 4
        (array([2.5, 3.5]), 3.0)
    """
    spent, length = np.asarray(bits, dtype=np.float64), np.asarray(characters, dtype=np.float64)
    ratio = spent.sum() / length.sum()
    scores: NDArray[np.float64] = ratio + (spent - ratio * length) / length.mean()
    return scores


def _files(folder: Path, split: str | None) -> dict[Language, Path]:
    """Return language → its file, or say what a folder has in place of such files."""
    name, pattern = "<language>", "*.txt*"
    if split is not None:
        name, pattern = f"<language>/{split}", f"*/{split}.txt*"

    rule = f"Texts must be in files {name}.txt or {name}.txt.gz of a folder."
    if not folder.is_dir():
        raise DataError(f"{rule} Found no folder {folder}. Create it, or correct the path.")

    files: dict[Language, Path] = {}
    for path in sorted(folder.glob(pattern)):
        stem, _, ending = path.name.partition(".txt")
        if f".txt{ending}" not in _ENDINGS:
            continue

        language = stem
        if split is not None:
            language = path.parent.name

        if language in files:
            raise DataError(
                f"A language has one file of texts. Found {files[language].name} and {path.name}"
                f" in {path.parent}. Delete one of them."
            )
        files[language] = path

    if not files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{rule} Found no such file in {folder}, but {found}. Rename the files; or, if each"
            " language has a folder, pass the split, such as `--split valid` for en/valid.txt."
        )

    return files


def _read_lines(path: Path) -> list[str]:
    try:
        with _open_text(path) as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            "Texts must be in UTF-8, compressed if the name of the file ends in .gz. Found, in"
            f" {path}: {error}. Write the file anew."
        ) from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")

    return path.open(encoding="utf-8")


def _rows(
    lines: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Mapping[str, list[int]]]:
    """Return the tokens of the texts that have two of their own or more."""
    rows = []
    for line in lines:
        row = tokenizer(
            line, truncation=True, max_length=max_length, return_special_tokens_mask=True
        )
        if row["special_tokens_mask"].count(0) > 1:
            rows.append(row)

    return rows


def _collate(
    collator: transformers.DataCollatorForLanguageModeling, rows: list[Mapping[str, list[int]]]
) -> Batch:
    """Return a batch with something to predict: of a short text, chance may mask nothing."""
    for _ in range(_MOST_DRAWS):
        batch: Batch = collator(rows)
        if (batch["labels"] != IGNORED_LABEL).any():
            break

    return batch

"""From texts to rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import DataError

__all__ = ["pack_rows", "tokenize"]


def tokenize(
    texts: Mapping[Language, Dataset], tokenizer: Any, *, max_length: int, pack: bool = True
) -> dict[Language, Dataset]:
    """Return the rows of tokens of each language.

    Args:
        texts: Language → data with a column `text`.
        tokenizer: The tokenizer.
        max_length: Tokens in a row at most, with its special tokens.
        pack: Fill each row with several texts (`pack_rows`); else each text is a row of its own,
            cut at `max_length`.

    Returns:
        Language → rows with `input_ids` and `attention_mask`.

    Raises:
        DataError: If a language has no column `text`, or not a single full row.

    Example:
        >>> from hf_meta_adapters.pretraining.from_scratch import train_tokenizer
        >>> texts = {"sw": Dataset.from_dict({"text": ["Hapo mwanzo kulikuwako Neno."] * 4})}
        >>> tokenizer = train_tokenizer(texts["sw"]["text"], vocabulary=60, max_length=16)
        >>> {len(row["input_ids"]) for row in tokenize(texts, tokenizer, max_length=8)["sw"]}
        {8}
    """
    found = {}
    for key, own in texts.items():
        if "text" not in own.column_names:
            raise DataError(
                f"Text must be in a column `text`. Found {own.column_names} for {key!r}. Rename one"
                " of them."
            )
        if pack:
            rows = list(pack_rows(tokenizer, own["text"], max_length))
        else:
            rows = tokenizer(list(own["text"]), truncation=True, max_length=max_length)["input_ids"]
        if not rows:
            raise DataError(
                f"A language must have text for a row of {max_length} tokens at least. Found less"
                f" for {key!r}. Give it more, lower `max_length`, or write `pack=False`."
            )
        found[key] = Dataset.from_dict(
            {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        )
    return found


def pack_rows(tokenizer: Any, texts: Iterable[str], max_length: int) -> Iterable[list[int]]:
    """Yield rows of exactly `max_length` tokens, filled with text after text; what is left in the end is dropped.

    Each text keeps its own special tokens, as in `run_mlm.py` and `run_clm.py` of transformers.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
        max_length: Tokens in a row.

    Returns:
        The rows, one at a time.

    Example:
        >>> def tokenizer(text, verbose):
        ...     return {"input_ids": [0, *map(ord, text), 2]}
        >>> list(pack_rows(tokenizer, ["ab", "cd"], max_length=3))
        [[0, 97, 98], [2, 0, 99]]
    """
    row: list[int] = []
    for text in texts:
        row += tokenizer(text, verbose=False)["input_ids"]
        while len(row) >= max_length:
            yield row[:max_length]
            row = row[max_length:]

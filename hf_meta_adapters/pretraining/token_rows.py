"""From texts to rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["pack_rows", "tokenize"]


def tokenize(
    texts: Mapping[Language, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    pack: bool = True,
) -> dict[Language, Dataset]:
    """Return the rows of tokens of each language.

    Args:
        texts: Language → data with a column `text`.
        tokenizer: The tokenizer.
        max_length: The largest number of tokens in a row, special tokens included.
        pack: Whether each row is filled with several texts (`pack_rows`). Otherwise each text is a
            row, cut at `max_length`.

    Returns:
        Language → rows with `input_ids` and `attention_mask`.

    Raises:
        DataError: If a language has no column `text`, or too little text for one full row.

    Example:
        >>> from hf_meta_adapters.pretraining.from_scratch import train_tokenizer
        >>> texts = {"sw": Dataset.from_dict({"text": ["Hapo mwanzo kulikuwako Neno."] * 4})}
        >>> tokenizer = train_tokenizer(texts["sw"]["text"], vocabulary=60, max_length=16)
        >>> {len(row["input_ids"]) for row in tokenize(texts, tokenizer, max_length=8)["sw"]}
        {8}
    """
    rows_by_language = {}
    for language, dataset in texts.items():
        if "text" not in dataset.column_names:
            raise DataError(
                f"Text must be in a column `text`. Found {dataset.column_names} for {language!r}."
                " Rename one of them."
            )

        if pack:
            rows = list(pack_rows(tokenizer, dataset["text"], max_length))
        else:
            # `Dataset` gives a lazy column, the tokenizer takes only lists.
            lines = list(dataset["text"])
            rows = tokenizer(lines, truncation=True, max_length=max_length)["input_ids"]

        if not rows:
            raise DataError(
                f"Every language must have text for at least a row of {max_length} tokens. Found"
                f" less for {language!r}. Add text, lower `max_length`, or use `pack=False`."
            )

        # No row is padded yet, so that every token is attended to.
        masks = [[1] * len(row) for row in rows]
        rows_by_language[language] = Dataset.from_dict({"input_ids": rows, "attention_mask": masks})

    return rows_by_language


def pack_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_length: int
) -> Iterator[list[int]]:
    """Yield rows of exactly `max_length` tokens, filled with text after text.

    Each text keeps its special tokens, as in `run_mlm.py` and `run_clm.py` of transformers. Tokens
    that do not fill a last row are dropped.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
        max_length: The number of tokens in a row.

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
        # A text may be longer than the model's rows: `verbose=False` silences that warning, because
        # the loop below cuts it.
        row += tokenizer(text, verbose=False)["input_ids"]

        while len(row) >= max_length:
            yield row[:max_length]
            row = row[max_length:]

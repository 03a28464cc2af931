"""Tables of random tokens on disk, which are mapped into memory and never read as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["padded", "token_table"]

_SHORTEST, _LONGEST = 8, 16  # tokens of a row
_FIRST_WORD = 5  # below are the special tokens of XLM-R
_PADDING, _IGNORED = 1, -100
_ROWS = 10_000  # of a record batch


def token_table(path: str | Path, rows: int, *, vocabulary: int, seed: int) -> Dataset:
    """Write rows of 8 to 16 random tokens, each its own label, and map the file into memory.

    Args:
        path: The file, which is replaced.
        rows: How many.
        vocabulary: Tokens are below it.
        seed: Makes the tokens.

    Returns:
        The table, with the columns `input_ids` and `labels`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> table = token_table(folder / "en.arrow", 100, vocabulary=50, seed=0)
        >>> len(table), 8 <= len(table[0]["input_ids"]) <= 16
        (100, True)
    """
    random = np.random.default_rng(seed)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(random.integers(_SHORTEST, _LONGEST + 1, rows), out=offsets[1:])
    words = random.integers(_FIRST_WORD, vocabulary, offsets[-1], dtype=np.int32)

    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(words))
    table = pa.table({"input_ids": column, "labels": column})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=_ROWS)

    return Dataset.from_file(str(path))


def padded(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """Make a batch of such rows.

    Args:
        rows: The rows.

    Returns:
        `input_ids`, `labels` and `attention_mask`, (B, T).

    Example:
        >>> rows = [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7], "labels": [7]}]
        >>> batch = padded(rows)
        >>> batch["labels"].tolist(), batch["attention_mask"].tolist()
        ([[5, 6], [7, -100]], [[1, 1], [1, 0]])
    """
    words = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    tokens = pad_sequence(words, batch_first=True, padding_value=_PADDING)
    return {
        "input_ids": tokens,
        "labels": pad_sequence(labels, batch_first=True, padding_value=_IGNORED),
        "attention_mask": (tokens != _PADDING).long(),
    }

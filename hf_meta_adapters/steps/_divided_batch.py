"""A batch as two: a sample of its rows, and the other rows."""

from __future__ import annotations

import math

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.backends.rows import count_rows
from hf_meta_adapters.steps.batch_rows import take_rows


def divided_batch(batch: Batch, share: float) -> tuple[Batch, Batch | None]:
    """Divide the rows of a batch into a sample and the rest.

    The sample is its first rows: rows come in random order. A batch of one row stays whole.

    Args:
        batch: The batch.
        share: The share of the rows that the sample has, rounded up to whole rows.

    Returns:
        The sample, and the other rows; `None` if there is none.
    """
    rows = count_rows(batch)

    # 0.1 · 30 is a little over 3.
    size = math.ceil(round(share * rows, 6))
    if size >= rows:
        return batch, None

    sample = {name: take_rows(entry, range(size), rows) for name, entry in batch.items()}
    rest = {name: take_rows(entry, range(size, rows), rows) for name, entry in batch.items()}
    return sample, rest

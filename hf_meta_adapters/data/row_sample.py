"""A digest of a few rows of a dataset, for telling two datasets apart without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import numpy as np
import torch
from datasets import Dataset

from hf_meta_adapters.data._digest import digest
from hf_meta_adapters.data.key import Example
from hf_meta_adapters.data.language_datasets import MapStyleDataset
from hf_meta_adapters.data.seeding import seeded

_ROWS = 64
_UNKNOWN = 16  # of data that may take long to read
_LARGE = 1000


def row_sample(dataset: MapStyleDataset, columns: Collection[str] | None = None) -> str | None:
    """Compute a digest of a few rows, evenly spaced from the first to the last.

    Up to 64 rows of a list or a table are read, and up to 16 of data that may take longer. Rows in
    another order, or of another draw, have another digest.

    Args:
        dataset: The rows. Reading them leaves no trace in the random state.
        columns: The columns that count, of those that a row has; `None` for all of them.

    Returns:
        The digest; `None` if rows change from one reading to the next, or cannot be compared.

    Example:
        >>> row_sample(["moja", "mbili"]) == row_sample(["mbili", "moja"])
        False
    """
    is_fixed = _is_fixed(dataset)
    most = _ROWS if is_fixed else _UNKNOWN
    last = len(dataset) - 1
    places: list[int] = []
    if last >= 0:
        places = sorted({round(last * part / (most - 1)) for part in range(most)})

    # Twice: rows that are drawn anew at every reading, as by augmentation, have no fixed digest.
    found = set()
    for _ in range(1 if is_fixed else 2):
        with seeded(0):
            try:
                rows = [_digest(dataset[place], columns) for place in places]
            except Exception:
                return None  # whatever reading raises, training will meet it and say more
        found.add(hashlib.blake2b(b"".join(rows), digest_size=6).hexdigest())

    return found.pop() if len(found) == 1 else None


def _is_fixed(dataset: MapStyleDataset) -> bool:
    """Whether rows are in memory or on the disk as they are read, and not made by reading them."""
    if isinstance(dataset, Dataset):
        return dataset.format["type"] is None
    return type(dataset) in (list, tuple)


def _digest(row: Example, columns: Collection[str] | None) -> bytes:
    if not isinstance(row, Mapping):
        return digest(row)

    names = list(row)
    if columns is not None:
        names = [name for name in row if name in columns] or names
    return digest({name: _small(row[name]) for name in names}, names)


def _small(value: object) -> object:
    """Replace a large array by a digest of its bytes: an image as text would take milliseconds."""
    if isinstance(value, torch.Tensor) and value.numel() > _LARGE:
        value = value.detach().cpu().float().numpy()
    if isinstance(value, np.ndarray) and value.size > _LARGE and not value.dtype.hasobject:
        return hashlib.blake2b(value.tobytes()).hexdigest()
    return value

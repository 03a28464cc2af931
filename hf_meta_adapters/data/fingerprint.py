"""A fingerprint of a data set: another one if a row was edited, moved, added or exchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import cast

from hf_meta_adapters.data._digest import digest, text_of
from hf_meta_adapters.data._stream_reader import StreamReader
from hf_meta_adapters.data.key import Example
from hf_meta_adapters.data.language_datasets import MapStyleDataset, is_map_style
from hf_meta_adapters.data.seeding import seeded

MOST_ROWS = 10_000
"""Of more rows than these, as many are read, evenly spaced."""

MOST_BYTES = 100_000_000
"""Of longer rows, such as the features of speech, fewer are read, but at least 100."""

MOST_STREAMED = 100
"""How many rows of a stream are read, from its beginning."""

_BLOCK = 256
_FEWEST = 100
_SEED = 0


def fingerprint(dataset: object) -> str | None:
    """Compute 16 hexadecimal digits that depend on the rows of a data set and on their order.

    All columns count, and neither the type of the data set nor the process. The fingerprints of
    `datasets` would not do: they name how a table was made, and change with the place of its cache.
    Of more than 10,000 rows, 10,000 evenly spaced ones are read, fewer where a row takes more than
    10 kB; of a stream, the first 100.

    Args:
        dataset: The data set, map-style or streaming.

    Returns:
        The digits; `None` where rows cannot be read, or hold something without a value to compare,
        such as images.

    Example:
        >>> one = fingerprint([{"input_ids": [5, 6]}, {"input_ids": [7]}])
        >>> one == fingerprint([{"input_ids": [7]}, {"input_ids": [5, 6]}])
        False
    """
    total = hashlib.blake2b(digest_size=8)

    # Rows that are augmented at random as they are read are the same ones each time, if they draw
    # from the generators that are seeded here; and nothing is drawn from those of training.
    with seeded(_SEED):
        try:
            for row in _rows(dataset):
                total.update(_digest(row))
        # Whatever a data set of a user raises: whether a row that cannot be read stops the run is
        # decided when training reads it.
        except Exception:
            return None

    return total.hexdigest()


def first_rows(dataset: object, count: int) -> list[Example]:
    """Return the first rows of a data set, or all if there are fewer, without a trace in the run.

    Args:
        dataset: The data set, map-style or streaming.
        count: How many.
    """
    with seeded(_SEED):
        if is_map_style(dataset):
            return list(_read(dataset, list(range(min(count, len(dataset))))))
        return list(islice(_rows(dataset), count))


def _digest(row: Example) -> bytes:
    return digest(row, _all_columns(row))


def _all_columns(row: Example) -> Sequence[str] | None:
    """All columns of a row: by default tokens alone would count, and no labels."""
    return list(row) if isinstance(row, Mapping) else None


def _rows(dataset: object) -> Iterator[Example]:
    if not is_map_style(dataset):
        reader = StreamReader(dataset, "train", "any")  # names for messages that nobody reads
        for position in range(MOST_STREAMED):
            yield reader.read(position)
        return

    if not len(dataset):
        return

    # The first row tells how long they are: an edited one has another digest anyway.
    [first] = _read(dataset, [0])
    length = len(text_of(first, _all_columns(first)))
    chosen = _evenly_spaced(len(dataset), max(_FEWEST, min(MOST_ROWS, MOST_BYTES // length)))

    for start in range(0, len(chosen), _BLOCK):
        yield from _read(dataset, chosen[start : start + _BLOCK])


def _evenly_spaced(size: int, most: int) -> list[int]:
    """The numbers of the rows to read, the first and the last among them."""
    if size <= most:
        return list(range(size))
    return [number * (size - 1) // (most - 1) for number in range(most)]


def _read(dataset: MapStyleDataset, rows: list[int]) -> Sequence[Example]:
    # As torch's DataLoader reads them: tables are much faster in blocks.
    read_together = getattr(dataset, "__getitems__", None)
    if read_together is not None:
        return cast(Sequence[Example], read_together(rows))
    return [dataset[row] for row in rows]

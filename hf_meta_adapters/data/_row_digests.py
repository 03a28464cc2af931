"""Digests of all rows of a dataset, in 16 bytes a row, and which rows are equal by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_meta_adapters.data._digest import DIGEST_BYTES, digest
from hf_meta_adapters.data.key import Example
from hf_meta_adapters.data.language_datasets import MapStyleDataset

Digests: TypeAlias = NDArray[np.uint64]
"""The digest of each row, as two numbers, (n, 2)."""

_BLOCK = 1_000  # rows in memory at once
_MOST_WITHOUT_PROGRESS = 100_000  # hashing more rows takes long enough to show a progress bar
_TOKENS = "input_ids"


def row_digests(
    dataset: MapStyleDataset, name: str, columns: Sequence[str] | None = None
) -> Digests:
    """Compute `digest` of every row in order, with a progress bar if there are many.

    A table is read in blocks, and of tokens no Python object is made for each row: a million short
    rows take seconds and 16 MB.

    Args:
        dataset: The rows.
        name: What they are, for the progress bar.
        columns: The columns that count, see `digest`.

    Returns:
        The digests.
    """
    count = len(dataset)
    found = np.empty((count, 2), np.uint64)
    done = 0
    with tqdm(
        desc=f"hashing {name}", total=count, disable=count <= _MOST_WITHOUT_PROGRESS
    ) as progress:
        for block in _blocks(dataset, columns):
            numbers = np.frombuffer(b"".join(block), np.uint64).reshape(-1, 2)
            found[done : done + len(numbers)] = numbers
            done += len(numbers)
            progress.update(len(numbers))

    return found[:done]


def digest_bytes(digests: Digests) -> Iterator[bytes]:
    """Return digests as `digest` does, one after the other."""
    for start in range(0, len(digests), _BLOCK):
        block = digests[start : start + _BLOCK].tobytes()
        for place in range(0, len(block), DIGEST_BYTES):
            yield block[place : place + DIGEST_BYTES]


def first_equal(digests: Digests) -> NDArray[np.int64]:
    """Find the first row that each row is equal to, which may be itself.

    Args:
        digests: The digests of all rows.

    Returns:
        Its number, (n,).

    Example:
        >>> first_equal(np.array([[7, 1], [7, 2], [7, 1]], np.uint64))
        array([0, 1, 0])
    """
    first = np.arange(len(digests))
    if not len(digests):
        return first

    # The sort is stable: of equal rows, the first one comes first.
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


def _blocks(dataset: MapStyleDataset, columns: Sequence[str] | None) -> Iterator[list[bytes]]:
    # A format may compute rows as they are read, one at a time.
    if not isinstance(dataset, Dataset) or dataset.format["type"] is not None:
        yield from _in_blocks(digest(row, columns) for row in _rows(dataset))
        return

    names = dataset.format["columns"]
    if _TOKENS in names and (columns is None or list(columns) == [_TOKENS]):
        for batch in dataset.with_format("arrow", columns=[_TOKENS]).iter(_BLOCK):
            yield _of_tokens(batch[_TOKENS].combine_chunks())
        return

    for values in dataset.iter(_BLOCK):
        rows = zip(*(values[name] for name in names), strict=True)
        yield [digest(dict(zip(names, row, strict=True)), columns) for row in rows]


def _in_blocks(found: Iterable[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for one in found:
        block.append(one)
        if len(block) == _BLOCK:
            yield block
            block = []
    yield block


def _rows(dataset: MapStyleDataset) -> Iterable[Example]:
    if isinstance(dataset, Iterable):
        return dataset

    # Python would iterate by `[0]`, `[1]`, … up to an IndexError, which not all datasets raise.
    return (dataset[row] for row in range(len(dataset)))


def _of_tokens(tokens: pa.Array) -> list[bytes]:
    """`digest({"input_ids": row})` of every row of a column."""
    if not _is_plain(tokens):
        return [digest({_TOKENS: row}) for row in tokens.to_pylist()]

    values = tokens.flatten()
    if not len(values):
        return [digest({_TOKENS: []})] * len(tokens)

    # The JSON of all rows as one list of numbers, which is then cut at the commas between rows.
    text = str(values.to_numpy().tolist())[1:-1].encode("ascii")
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(","))
    starts = np.concatenate([[0], commas + len(", "), [len(text)]])
    ends = np.concatenate([[0], commas, [len(text)]])

    lengths = pc.list_value_length(tokens).to_numpy().astype(np.int64)
    last = np.cumsum(lengths)
    cuts = zip(starts[last - lengths].tolist(), ends[last].tolist(), strict=True)

    # Not `digest`, whose parts would be made and joined again for each row.
    found = []
    for start, end in cuts:
        row = b'{"%b": [%b]}' % (_TOKENS.encode(), text[start:end])
        found.append(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest())
    return found


def _is_plain(tokens: pa.Array) -> bool:
    """Whether a column holds lists of whole numbers, and nothing is missing."""
    kind = tokens.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False

    is_whole = pa.types.is_integer(kind.value_type)
    return is_whole and not tokens.null_count and not tokens.flatten().null_count

"""Endless streams of row numbers, one for each role and language, that can be entered at any position."""

from __future__ import annotations

import hashlib

import torch


def stable_seed(*parts: object) -> int:
    """A seed below 2⁶³ made from the parts, the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RowStream:
    """Rows in passes: every pass is a new permutation of all rows, so that all are used equally often up to one.

    Args:
        size: The number of rows; `None` for a streaming data set, whose rows come as they come.
        seed: Parts of the seed; pass p is a function of them and p alone.
        shuffle: Whether passes are permuted.
    """

    def __init__(self, size: int | None, seed: tuple[object, ...], *, shuffle: bool = True) -> None:
        self.size = size
        self._seed = seed
        self._shuffle = shuffle
        self._pass: tuple[int, list[int]] | None = None

    def rows(self, start: int, count: int) -> list[int]:
        """The rows at the positions start, …, start + count − 1."""
        if self.size is None:
            return list(range(start, start + count))
        found = []
        for position in range(start, start + count):
            number, place = divmod(position, self.size)
            found.append(self._permutation(number)[place])
        return found

    def _permutation(self, number: int) -> list[int]:
        assert self.size is not None
        if self._pass is None or self._pass[0] != number:
            if self._shuffle:
                generator = torch.Generator().manual_seed(stable_seed(*self._seed, number))
                order = torch.randperm(self.size, generator=generator).tolist()
            else:
                order = list(range(self.size))
            self._pass = (number, order)
        return self._pass[1]

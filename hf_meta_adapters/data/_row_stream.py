"""Endless streams of row numbers, one for each role and language, that can be entered at any position."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from hf_meta_adapters.data.seeding import stable_seed


class RowStream:
    """Rows in passes: every pass is a new permutation of all rows, so that all are used equally often up to one.

    Args:
        size: n, the number of rows; `None` for a streaming dataset, whose rows come as they come.
        seed: Parts of the seed; pass p is a function of them and p alone.
        shuffle: Whether passes are permuted.
    """

    def __init__(self, size: int | None, seed: tuple[object, ...], *, shuffle: bool = True) -> None:
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._pass: tuple[int, np.ndarray] | None = None

    def rows(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """The row at each position of the stream, and the number ⌊position / n⌋ of its pass."""
        if self._size is None:
            return [(position, 0) for position in positions]
        places = (divmod(position, self._size) for position in positions)
        return [(self._row(number, place), number) for number, place in places]

    def _row(self, number: int, place: int) -> int:
        if not self._shuffle:
            return place
        if self._pass is None or self._pass[0] != number:
            generator = torch.Generator().manual_seed(stable_seed(*self._seed, number))
            self._pass = number, torch.randperm(self._size or 0, generator=generator).numpy()
        return int(self._pass[1][place])

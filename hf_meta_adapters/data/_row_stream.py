"""Endless streams of row numbers, one for each role and language, readable from any position."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from hf_meta_adapters.data._length_groups import LengthGroups
from hf_meta_adapters.data.seeding import stable_seed


class RowStream:
    """Rows in passes: each pass is a new permutation, so all rows are used equally often up to one.

    Args:
        size: n, the number of rows; `None` for a streaming dataset, whose rows come as they come.
        seed: Parts of the seed; pass p is a function of them and p alone.
        shuffle: Whether passes are permuted.
        groups: Puts rows of similar length together in a permuted pass; `None` for none.
    """

    def __init__(
        self,
        size: int | None,
        seed: tuple[object, ...],
        *,
        shuffle: bool = True,
        groups: LengthGroups | None = None,
    ) -> None:
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._groups = groups
        self._last_pass: tuple[int, NDArray[np.int64]] | None = None

    def rows(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """Return the row at each position of the stream, and its pass, ⌊position / n⌋."""
        if self._size is None:
            # Where a pass over a streaming dataset ends is known only to its reader.
            return [(position, 0) for position in positions]

        rows = []
        for position in positions:
            pass_number, place = divmod(position, self._size)
            row = place
            if self._shuffle:
                row = int(self._permutation(pass_number, self._size)[place])
            rows.append((row, pass_number))

        return rows

    def _permutation(self, pass_number: int, size: int) -> NDArray[np.int64]:
        # Positions are read in ascending order, so remembering the last pass draws each only once.
        if self._last_pass is None or self._last_pass[0] != pass_number:
            generator = torch.Generator().manual_seed(stable_seed(*self._seed, pass_number))
            drawn = torch.randperm(size, generator=generator).numpy()
            if self._groups is not None:
                drawn = self._groups.order(drawn, pass_number * size, generator)
            self._last_pass = pass_number, drawn

        return self._last_pass[1]

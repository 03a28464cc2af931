"""Numbers for pairs of languages, in each group of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language


class PairTable:
    """Square tables of numbers, 0 until they are set, that grow with the languages seen.

    Args:
        names: The names of the tables.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.languages: list[Language] = []
        """The languages seen, in the order of rows and columns."""
        self._tables = {name: torch.zeros(0, 0, 0, dtype=torch.float64) for name in names}

    def get(self, name: str, groups: int, languages: Sequence[Language]) -> Tensor:
        """The numbers of some languages, (groups, L, L); a copy."""
        self._make_room(groups, languages)
        places = self._places(languages)
        return self._tables[name][:, places[:, None], places]

    def set(self, name: str, languages: Sequence[Language], values: Tensor) -> None:
        """Replace the numbers of some languages, (groups, L, L)."""
        self._make_room(len(values), languages)
        places = self._places(languages)
        self._tables[name][:, places[:, None], places] = values

    def state(self) -> dict[str, Tensor]:
        """Copies of the tables by name."""
        return {name: table.clone() for name, table in self._tables.items()}

    def load(self, languages: Sequence[Language], tables: Mapping[str, Tensor]) -> None:
        """Take over a state.

        Args:
            languages: The languages of rows and columns.
            tables: The tables by name.

        Raises:
            ValueError: If they are of other names or shapes, or not finite.
        """
        sizes = {tuple(table.shape[1:]) for table in tables.values()}
        if set(tables) != set(self._tables) or sizes != {(len(languages), len(languages))}:
            raise ValueError(f"tables {sorted(tables)} of {sorted(sizes)}")
        if not all(bool(table.isfinite().all()) for table in tables.values()):
            raise ValueError("numbers that are not finite")

        self.languages = list(languages)
        self._tables = {name: tables[name].double() for name in self._tables}

    def _places(self, languages: Sequence[Language]) -> Tensor:
        return torch.tensor([self.languages.index(key) for key in languages])

    def _make_room(self, groups: int, languages: Sequence[Language]) -> None:
        self.languages += [key for key in languages if key not in self.languages]
        size = len(self.languages)

        for name, table in self._tables.items():
            if table.shape != (groups, size, size):
                larger = table.new_zeros(groups, size, size)
                larger[: len(table), : table.shape[1], : table.shape[2]] = table
                self._tables[name] = larger

"""Data sets of all roles and languages behind one, addressed by the keys of the sampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch.utils.data import Dataset, get_worker_info

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._sampler import Key, Role
from hf_meta_adapters.errors import ConfigurationError, DataError

Keyed: TypeAlias = tuple[Key, Any]


def size_of(dataset: Any) -> int | None:
    """The number of rows; `None` for a streaming data set."""
    return len(dataset) if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") else None


class LanguageDatasets(Dataset[Keyed]):
    """The examples of all roles and languages.

    Args:
        datasets: role → language → a map-style data set (`len` and `[row]`) or a streaming one (iterable).
    """

    def __init__(self, datasets: Mapping[Role, Mapping[Language, Any]]) -> None:
        self._datasets = {(role, key): one for role, several in datasets.items() for key, one in several.items()}
        self._readers: dict[tuple[Role, Language], _Reader] = {
            place: _Reader(one, place) for place, one in self._datasets.items() if size_of(one) is None
        }

    def __len__(self) -> int:
        """The number of training rows that are known."""
        return sum(size_of(one) or 0 for (role, _), one in self._datasets.items() if role == "train")

    def __getitem__(self, key: Key) -> Keyed:
        """The example of a key, with the key."""
        place = (key.role, key.language)
        if place not in self._readers:
            return key, self._datasets[place][key.index]
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ConfigurationError(
                "A streaming data set is read in order, by one worker at most. Found "
                f"`dataloader_num_workers={worker.num_workers}`. Write 0 or 1."
            )
        return key, self._readers[place].at(key.index)


class _Reader:
    """Reads a streaming data set forward to any position; at its end it begins again."""

    def __init__(self, source: Iterable[Any], place: tuple[Role, Language]) -> None:
        self._source = source
        self._place = place
        self._iterator: Iterator[Any] | None = None
        self._position = 0

    def at(self, position: int) -> Any:
        """The example at a position; those before it that were not read yet are read and dropped."""
        if self._iterator is None or position < self._position:
            self._iterator, self._position = iter(self._source), 0
        while True:
            begun = self._position
            for example in self._iterator:
                self._position += 1
                if self._position > position:
                    return example
            if self._position == begun and begun == 0:
                role, language = self._place
                raise DataError(
                    f"The {role} data of {language!r} must hold examples. Found an empty stream. Leave the language out."
                )
            self._iterator = iter(self._source)

"""Data sets of all roles and languages behind one, addressed by the keys of the sampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, TypeAlias

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Key, Role
from hf_meta_adapters.errors import ConfigurationError, DataError

Keyed: TypeAlias = tuple[Key, Any]


def size_of(dataset: Any) -> int | None:
    """The number of rows; `None` for a streaming dataset, even if it tells its length: its rows cannot be chosen.

    Args:
        dataset: Any dataset.

    Returns:
        The number.

    Example:
        >>> size_of(["moja", "mbili"]), size_of(iter(["moja"]))
        (2, None)
    """
    rows = (
        not isinstance(dataset, IterableDataset)
        and hasattr(dataset, "__len__")
        and hasattr(dataset, "__getitem__")
    )
    return len(dataset) if rows else None


class LanguageDatasets(Dataset[Keyed]):
    """The examples of all roles and languages.

    A streaming dataset is read in order, from any position on: the rows before it are read and
    dropped. At its end it is read again, after `set_epoch(pass)` where it has that
    (`datasets.IterableDataset` then takes its shards and its shuffle buffer in another order).
    Every process reads all of it and keeps its own rows, so it must not be split by process before.
    A worker that is not persistent begins a new reader, and drops all earlier rows, in every epoch.

    Args:
        datasets: role → language → a map-style dataset (`len` and `[row]`) or a streaming one,
            which must be iterable more than once and allows one DataLoader worker at most.

    Raises:
        DataError: If a streaming dataset is an iterator, which ends for good.
    """

    def __init__(self, datasets: Mapping[Role, Mapping[Language, Any]]) -> None:
        self._datasets = {
            (role, key): one for role, several in datasets.items() for key, one in several.items()
        }
        self._readers = {
            place: _Reader(one, place)
            for place, one in self._datasets.items()
            if size_of(one) is None
        }

    def __len__(self) -> int:
        """The number of training rows that are known."""
        return sum(size_of(one) or 0 for one in self.of_role("train").values())

    def of_role(self, role: Role) -> dict[Language, Any]:
        """The datasets of one role, language by language, as they were given."""
        return {key: one for (place, key), one in self._datasets.items() if place == role}

    def __getitem__(self, key: Key) -> Keyed:
        """The example of a key, with the key."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Keyed]:
        """The examples of keys, with the keys; neighbours of one role and language are read at once."""
        found: list[Keyed] = []
        for place, group in groupby(keys, key=lambda key: (key.role, key.language)):
            several = list(group)
            found += zip(several, self._read(place, [key.index for key in several]), strict=True)
        return found

    def _read(self, place: tuple[Role, Language], rows: list[int]) -> list[Any]:
        if place in self._readers:
            _check_workers()
            return [self._readers[place].at(row) for row in rows]
        dataset = self._datasets[place]
        if hasattr(dataset, "__getitems__"):
            return list(dataset.__getitems__(rows))
        return [dataset[row] for row in rows]


class _Reader:
    """Reads a streaming dataset forward to any position; at its end it begins again."""

    def __init__(self, source: Iterable[Any], place: tuple[Role, Language]) -> None:
        if isinstance(source, Iterator):
            raise DataError(
                "A streaming dataset must be iterable more than once. Found a"
                f" `{type(source).__name__}` as the {place[0]} data of {place[1]!r}. Write for"
                " example `datasets.IterableDataset.from_generator(...)`."
            )
        self._source = source
        self._place = place
        self._iterator: Iterator[Any] | None = None
        self._position = self._pass = self._pass_start = 0

    def at(self, position: int) -> Any:
        """The example at a position; those before it that were not read yet are read and dropped."""
        if self._iterator is None or position < self._position:
            self._position = 0
            self._iterator = self._begin(0)
        while True:
            for example in self._iterator:
                self._position += 1
                if self._position > position:
                    return example
            if self._position == self._pass_start:
                role, language = self._place
                raise DataError(
                    f"The {role} data of {language!r} must hold examples. Found an empty stream in"
                    f" pass {self._pass}. Leave the language out."
                )
            self._iterator = self._begin(self._pass + 1)

    def _begin(self, number: int) -> Iterator[Any]:
        self._pass, self._pass_start = number, self._position
        if hasattr(self._source, "set_epoch"):
            self._source.set_epoch(number)
        return iter(self._source)


def _check_workers() -> None:
    worker = get_worker_info()
    if worker is not None and worker.num_workers > 1:
        raise ConfigurationError(
            "A streaming dataset is read in order, by one worker at most. Found "
            f"`dataloader_num_workers={worker.num_workers}`. Write 0 or 1."
        )

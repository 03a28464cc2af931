"""Datasets of all roles and languages behind one, addressed by the keys of the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol, TypeGuard, cast, runtime_checkable

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._stream_reader import StreamReader
from hf_meta_adapters.data.key import Example, Key, Keyed, Role
from hf_meta_adapters.errors import ConfigurationError


@runtime_checkable
class MapStyleDataset(Protocol):
    """A dataset of known length whose rows can be read in any order."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, row: int, /) -> Example:
        """One row."""


@runtime_checkable
class _ReadsInGroups(Protocol):
    """A dataset that reads many rows faster at once, by the protocol of torch's DataLoader."""

    def __getitems__(self, rows: list[int], /) -> Sequence[Example]: ...


def is_map_style(dataset: object) -> TypeGuard[MapStyleDataset]:
    """Whether rows can be read in any order; those of a stream cannot, even if it has a length."""
    return isinstance(dataset, MapStyleDataset) and not isinstance(dataset, IterableDataset)


def size_of(dataset: object) -> int | None:
    """Return the number of rows; `None` for a streaming dataset, whose rows cannot be chosen.

    Args:
        dataset: Any dataset.

    Returns:
        The number.

    Example:
        >>> size_of(["moja", "mbili"]), size_of(iter(["moja"]))
        (2, None)
    """
    return len(dataset) if is_map_style(dataset) else None


class LanguageDatasets(Dataset[Keyed]):
    """The examples of all roles and languages.

    A streaming dataset is read in order, from any position on: the rows before it are read and
    dropped. At its end it is read again, after `set_epoch(pass)` where it has that method
    (`datasets.IterableDataset` then takes its shards and its shuffle buffer in another order).
    Every process reads the whole stream and keeps only its share of the rows, so do not split the
    stream by process. A worker that is not persistent begins a new reader, and drops all earlier
    rows, in every epoch.

    Args:
        datasets: role → language → a map-style dataset (`len` and `[row]`) or a streaming one,
            which must be iterable more than once and allows one DataLoader worker at most.

    Raises:
        DataError: If a streaming dataset is an iterator, which can be read only once.
    """

    def __init__(self, datasets: Mapping[Role, Mapping[Language, object]]) -> None:
        self._datasets: dict[tuple[Role, Language], object] = {}
        self._readers: dict[tuple[Role, Language], StreamReader] = {}

        for role, by_language in datasets.items():
            for language, dataset in by_language.items():
                self._datasets[role, language] = dataset

                # Readers are made now, so that an iterator is refused before training begins.
                if not is_map_style(dataset):
                    self._readers[role, language] = StreamReader(dataset, role, language)

    def __len__(self) -> int:
        """The number of training rows, streams left out."""
        return sum(size_of(dataset) or 0 for dataset in self.of_role("train").values())

    def of_role(self, role: Role) -> dict[Language, object]:
        """Return the datasets of one role by language, as they were given."""
        return {
            language: dataset
            for (dataset_role, language), dataset in self._datasets.items()
            if dataset_role == role
        }

    def __getitem__(self, key: Key) -> Keyed:
        """Return the example of a key, with the key."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Keyed]:
        """Return the examples of keys, with the keys.

        The DataLoader calls this once per batch. Neighbouring keys of one role and language are
        read together, which `datasets.Dataset` does much faster than row by row.
        """
        examples: list[Keyed] = []
        for (role, language), group in groupby(keys, key=attrgetter("role", "language")):
            run = list(group)
            rows = self._read(role, language, [key.index for key in run])
            examples += zip(run, rows, strict=True)

        return examples

    def _read(self, role: Role, language: Language, rows: list[int]) -> Sequence[Example]:
        reader = self._readers.get((role, language))
        if reader is not None:
            # Only here, since the dataset is made before the DataLoader starts its workers.
            _check_workers()
            return [reader.read(position) for position in rows]

        dataset = self._datasets[role, language]
        if isinstance(dataset, _ReadsInGroups):
            return dataset.__getitems__(rows)

        return [cast(MapStyleDataset, dataset)[row] for row in rows]


def _check_workers() -> None:
    worker = get_worker_info()
    if worker is not None and worker.num_workers > 1:
        raise ConfigurationError(
            "A streaming dataset is read in order, by at most one worker. Found"
            f" `dataloader_num_workers={worker.num_workers}`. Set it to 0 or 1."
        )

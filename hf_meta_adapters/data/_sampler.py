"""The batch sampler of training with languages: which rows of which languages each step holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from math import ceil

from torch.utils.data import Sampler

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._row_stream import RowStream
from hf_meta_adapters.data._schedule import language_schedule
from hf_meta_adapters.data.key import Key, Role
from hf_meta_adapters.data.temperature import apportion, temperature_distribution
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)


class LanguageBatchSampler(Sampler[list[Key]]):
    """Lists of keys, one list for each (micro-)step: a batch of training rows, and one of meta rows, per language.

    Everything is a function of the seed and the position in the run. To continue a run, set the
    epoch and skip the steps that were taken; nothing else has to be stored. Over an epoch of T
    steps with k of the L languages each, language l is in exactly c_l steps, where the c_l are T ·
    k · q_l rounded so that they sum to T · k, between 1 and T each (`temperature_distribution`,
    `apportion`, `language_schedule`). If T · k < L, no epoch has room for every language, and the
    counts hold over ⌈L / (T · k)⌉ epochs. With all languages in every step q plays no part.

    Every role of every language has its own endless stream of rows, one permutation of all rows
    after the other (`RowStream`). The rows of an optimizer step depend neither on the number of
    processes nor on accumulation, as long as the product of batch size, processes and micro-steps
    is the same.

    Args:
        train_sizes: n_l, the number of training rows of each language; `None` for a streaming
            dataset.
        meta_sizes: Likewise of meta rows; `None` if there is no meta text.
        batch_size: Training rows per language, micro-step and process.
        meta_batch_size: Meta rows likewise; `None` for `batch_size`.
        languages_per_step: k; `None` for all.
        alpha: The exponent α of the temperature: q_l ∝ n_l^α.
        sampling_weights: q_l up to a factor, in place of n_l^α. Where it is `None` and a size is
            unknown, all languages are taken equally often.
        seed: The seed.
        steps_per_epoch: T, in optimizer steps; `None` for as many as show Σ n_l rows. Needed if
            training data stream.
        accumulation_steps: Micro-steps of one optimizer step: that many lists in a row hold the
            same languages.
        rank: The number of this process.
        world_size: The number of processes; process r gets every world_size-th row of the global
            batch from r on.
        shuffle: Whether rows are shuffled; a streaming dataset is read as it comes.

    Raises:
        ConfigurationError: If a number cannot work.
        DataError: If a language has no rows.
        LanguageError: If train, meta and weights name different languages.

    Example:
        >>> sampler = LanguageBatchSampler({"en": 4, "sw": 2}, batch_size=2, steps_per_epoch=1, shuffle=False)
        >>> [(key.language, key.index) for key in next(iter(sampler))]
        [('en', 0), ('en', 1), ('sw', 0), ('sw', 1)]
    """

    def __init__(
        self,
        train_sizes: Mapping[Language, int | None],
        meta_sizes: Mapping[Language, int | None] | None = None,
        *,
        batch_size: int,
        meta_batch_size: int | None = None,
        languages_per_step: int | None = None,
        alpha: float = 0.7,
        sampling_weights: Mapping[Language, float] | None = None,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        languages = check_languages(train_sizes)
        self._sizes: dict[Role, Mapping[Language, int | None]] = {"train": train_sizes}
        if meta_sizes is not None:
            self._sizes["meta"] = meta_sizes
        _check_sizes(self._sizes, sampling_weights)
        self._rows: dict[Role, int] = {
            "train": _count("batch_size", batch_size),
            "meta": _count(
                "meta_batch_size", batch_size if meta_batch_size is None else meta_batch_size
            ),
        }
        per_step = len(languages) if languages_per_step is None else languages_per_step
        self._per_step = _count("languages_per_step", per_step, highest=len(languages))
        self._accumulation = _count("accumulation_steps", accumulation_steps)
        self._world = _count("world_size", world_size)
        self._rank = _count("rank", rank, lowest=0, highest=world_size - 1)
        self._seed, self._epoch = seed, 0
        self._steps = self._epoch_length(steps_per_epoch)
        self._cycle = ceil(len(languages) / (self._steps * self._per_step))
        weights = _weights(train_sizes, alpha) if sampling_weights is None else sampling_weights
        total = self._cycle * self._steps * self._per_step
        self._counts = apportion(
            total,
            {key: weights[key] for key in languages},
            minimum=1,
            maximum=self._cycle * self._steps,
        )
        self._streams = {
            (role, key): RowStream(size, (seed, role, key), shuffle=shuffle)
            for role, sizes in self._sizes.items()
            for key, size in sizes.items()
        }

    def __len__(self) -> int:
        """The number of micro-steps of an epoch."""
        return self._steps * self._accumulation

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of this process, micro-step by micro-step."""
        for languages, seen in islice(self._walk(self._epoch), self._steps):
            for part in range(self._accumulation):
                yield [
                    Key(role, key, row, visit)
                    for role in self._sizes
                    for key in languages
                    for row, visit in self._streams[role, key].rows(
                        self._positions(role, seen[key], part)
                    )
                ]

    def examples_seen(self, epoch: int, step: int) -> dict[Role, dict[Language, int]]:
        """How many rows of each role and language all processes have been given before a step of an epoch.

        Args:
            epoch: The epoch.
            step: The number of optimizer steps taken in it, at most T. The schedule is replayed up
                to there.

        Returns:
            role → language → rows, passes over the same row counted each.
        """
        _, seen = next(islice(self._walk(epoch), step, None))
        return {
            role: {key: count * self.rows_per_step(role) for key, count in seen.items()}
            for role in self._sizes
        }

    def rows_per_step(self, role: Role) -> int:
        """Rows of a language in an optimizer step, over all processes and micro-steps."""
        return self._rows[role] * self._world * self._accumulation

    def _walk(self, epoch: int) -> Iterator[tuple[list[Language], dict[Language, int]]]:
        """The optimizer steps from the beginning of an epoch on: languages, and in how many steps each was before."""
        cycle, part = divmod(epoch, self._cycle)
        skipped = part * self._steps
        seen = {key: cycle * count for key, count in self._counts.items()}
        while True:
            schedule = language_schedule(
                self._counts, self._per_step, seed=(self._seed, "schedule", cycle)
            )
            for number, languages in enumerate(schedule):
                if number >= skipped:
                    yield languages, seen
                for key in languages:
                    seen[key] += 1
            cycle, skipped = cycle + 1, 0

    def _positions(self, role: Role, visit: int, part: int) -> range:
        """Where in its stream this process reads, in one micro-step of the visit-th step that holds the language."""
        rows = self._rows[role] * self._world
        start = visit * self.rows_per_step(role) + part * rows
        return range(start + self._rank, start + rows, self._world)

    def _epoch_length(self, given: int | None) -> int:
        if given is not None:
            return _count("steps_per_epoch", given)
        sizes = self._sizes["train"]
        streaming = [key for key, size in sizes.items() if size is None]
        if streaming:
            raise ConfigurationError(
                "The length of an epoch must be known. Found streaming training data of"
                f" {streaming}. Write for example `steps_per_epoch=1000` here, or `max_steps=1000`"
                " in the training arguments."
            )
        return ceil(
            sum(size or 0 for size in sizes.values())
            / (self._per_step * self.rows_per_step("train"))
        )


def _weights(sizes: Mapping[Language, int | None], alpha: float) -> dict[Language, float]:
    known = {key: size for key, size in sizes.items() if size is not None}
    return temperature_distribution(
        known if len(known) == len(sizes) else dict.fromkeys(sizes, 1), alpha
    )


def _count(name: str, value: int, *, lowest: int = 1, highest: int | None = None) -> int:
    if not isinstance(value, int) or value < lowest or (highest is not None and value > highest):
        bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ConfigurationError(f"`{name}` must be a whole number {bounds}. Found {value!r}.")
    return value


def _check_sizes(
    sizes: Mapping[Role, Mapping[Language, int | None]], weights: Mapping[Language, float] | None
) -> None:
    train = sizes["train"]
    for name, other in (
        ("meta text", sizes.get("meta", train)),
        ("`sampling_weights`", weights or train),
    ):
        if set(other) != set(train):
            raise LanguageError(
                f"Training text and {name} must be of the same languages. Found {list(train)} and"
                f" {list(other)}."
            )
    for role, several in sizes.items():
        empty = [key for key, size in several.items() if size == 0]
        if empty:
            raise DataError(
                f"The {role} data of {empty} must hold examples. Found none. Leave the language"
                " out."
            )

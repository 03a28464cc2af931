"""The batch sampler of training with languages: which rows of which languages each step holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Literal, NamedTuple

from torch.utils.data import Sampler

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._schedule import language_schedule
from hf_meta_adapters.data._streams import RowStream
from hf_meta_adapters.data._temperature import apportion, temperature_distribution
from hf_meta_adapters.errors import ConfigurationError, LanguageError

Role = Literal["train", "meta"]


class Key(NamedTuple):
    """One example: `index` is its row, or its position in a streaming data set."""

    role: Role
    language: Language
    index: int


class LanguageBatchSampler(Sampler[list[Key]]):
    """Lists of keys, one list for each (micro-)step: a batch of training rows, and one of meta rows, per language.

    Everything is a function of the seed and the position in the run. To continue a run, set the epoch and skip the
    steps that were taken; nothing else has to be stored. Over an epoch of T steps with k of the L languages each,
    language l is in exactly c_l steps, where the c_l are T · k · q_l rounded so that they sum to T · k, at least one
    each where that is possible (`temperature_distribution`, `apportion`). With all languages in every step the
    temperature plays no part.

    Args:
        train_sizes: The number of training rows of each language; `None` for a streaming data set.
        meta_sizes: Likewise of meta rows; `None` if there is no meta text.
        batch_size: Training rows per language, step and process.
        meta_batch_size: Meta rows likewise; `None` for `batch_size`.
        languages_per_step: k; `None` for all.
        alpha: The exponent α of the temperature.
        seed: The seed.
        steps_per_epoch: T; `None` for as many as show Σ n_l rows. Needed if a training set is streaming.
        accumulation_steps: Micro-steps of one optimizer step: that many lists in a row hold the same languages.
        rank: The number of this process.
        world_size: The number of processes; process r gets every world_size-th row of the global batch from r on.
        shuffle: Whether rows are shuffled; a streaming data set is read as it comes.

    Raises:
        ConfigurationError: If a number cannot work.
        LanguageError: If train and meta name different languages.
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
        seed: int = 0,
        steps_per_epoch: int | None = None,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self._languages = list(train_sizes)
        self._sizes: dict[Role, Mapping[Language, int | None]] = {"train": train_sizes}
        if meta_sizes is not None:
            if set(meta_sizes) != set(train_sizes):
                raise LanguageError(
                    f"Train and meta text must be of the same languages. Found {list(train_sizes)} and {list(meta_sizes)}."
                )
            self._sizes["meta"] = meta_sizes
        self._rows: dict[Role, int] = {"train": batch_size, "meta": meta_batch_size or batch_size}
        self._per_step = languages_per_step or len(self._languages)
        if not 1 <= self._per_step <= len(self._languages):
            raise ConfigurationError(
                f"`languages_per_step` must be between 1 and the number of languages, {len(self._languages)}. Found "
                f"{languages_per_step}."
            )
        self._accumulation, self._rank, self._world = accumulation_steps, rank, world_size
        self._seed, self._epoch = seed, 0
        self._steps = self._epoch_length(train_sizes, steps_per_epoch)
        self._counts = self._steps_of(train_sizes, alpha)
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
        seen = {key: self._epoch * count for key, count in self._counts.items()}
        for languages in self._schedule():
            for part in range(self._accumulation):
                yield [
                    Key(role, key, row)
                    for role in self._sizes
                    for key in languages
                    for row in self._part(role, key, seen[key], part)
                ]
            for key in languages:
                seen[key] += 1

    def examples_seen(self, epoch: int, step: int) -> dict[Role, dict[Language, int]]:
        """How many rows of each role and language all processes have been given before a step of an epoch.

        Args:
            epoch: The epoch.
            step: The number of optimizer steps taken in it.

        Returns:
            role → language → rows, passes over the same row counted each.
        """
        seen = {key: epoch * count for key, count in self._counts.items()}
        for languages in self._schedule(epoch)[:step]:
            for key in languages:
                seen[key] += 1
        return {role: {key: count * self._global_rows(role) for key, count in seen.items()} for role in self._sizes}

    def _schedule(self, epoch: int | None = None) -> list[list[Language]]:
        number = self._epoch if epoch is None else epoch
        return language_schedule(self._counts, self._steps, self._per_step, seed=(self._seed, "schedule", number))

    def _global_rows(self, role: Role) -> int:
        """Rows of a language in an optimizer step, over all processes and micro-steps."""
        return self._rows[role] * self._world * self._accumulation

    def _part(self, role: Role, key: Language, visit: int, part: int) -> list[int]:
        """The rows of this process in one micro-step of the visit-th step that holds the language."""
        start = visit * self._global_rows(role) + part * self._rows[role] * self._world
        rows = self._streams[role, key].rows(start, self._rows[role] * self._world)
        return rows[self._rank :: self._world]

    def _epoch_length(self, sizes: Mapping[Language, int | None], given: int | None) -> int:
        if given is not None:
            return given
        known = [size for size in sizes.values() if size is not None]
        if len(known) < len(sizes):
            streaming = [key for key, size in sizes.items() if size is None]
            raise ConfigurationError(
                f"The length of an epoch must be known. Found streaming data for {streaming}. Write `max_steps=...`."
            )
        return max(1, ceil(sum(known) / (self._per_step * self._global_rows("train"))))

    def _steps_of(self, sizes: Mapping[Language, int | None], alpha: float) -> dict[Language, int]:
        """c_l, in how many steps of an epoch each language is."""
        known = {key: size for key, size in sizes.items() if size is not None}
        even = dict.fromkeys(sizes, 1)  # streams do not tell their sizes: they are taken equally often
        weights = temperature_distribution(known if len(known) == len(sizes) else even, alpha)
        total = self._steps * self._per_step
        return apportion(total, weights, minimum=1 if total >= len(sizes) else 0, maximum=self._steps)

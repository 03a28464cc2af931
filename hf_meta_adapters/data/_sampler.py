"""The batch sampler of training with languages: which rows of which languages each step holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Literal

from torch.utils.data import Sampler

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._length_groups import LengthGroups
from hf_meta_adapters.data._row_stream import RowStream
from hf_meta_adapters.data._schedule import language_schedule
from hf_meta_adapters.data._whole_numbers import check_whole_number
from hf_meta_adapters.data.key import Key, Role
from hf_meta_adapters.data.row_lengths import Lengths
from hf_meta_adapters.data.sampling_plan import SamplingPlan
from hf_meta_adapters.data.shared_rows import SharedRows
from hf_meta_adapters.data.step_partition import StepPartition
from hf_meta_adapters.data.temperature import apportion, temperature_distribution
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_languages,
)


class LanguageBatchSampler(Sampler[list[Key]]):
    """Lists of keys, one for each (micro-)step: per language, a batch of training and of meta rows.

    Everything is a function of the seed and the position in the run. To continue a run, set the
    epoch and skip the steps already taken; nothing else has to be stored. Over an epoch of T steps
    with k of the L languages each, language l is in exactly c_l steps, where the c_l are T · k ·
    q_l rounded so that they sum to T · k, between 1 and T each (`temperature_distribution`,
    `apportion`, `language_schedule`). If T · k < L, no epoch has room for every language, and the
    counts hold over ⌈L / (T · k)⌉ epochs. With all languages in every step q plays no part. A plan
    of a whole run (`UniMax`, `Cooldown`) has counts of its own, which are as exact.

    Every role of every language has its own endless stream of rows, one permutation of all rows
    after the other (`RowStream`); where meta rows are training rows, both roles of a language
    share one (`SharedRows`). The rows of an optimizer step depend neither on the number of
    processes nor on accumulation, as long as the product of batch size, processes and micro-steps
    is the same.

    Args:
        train_sizes: n_l, the number of training rows of each language; `None` for a streaming
            dataset.
        meta_sizes: Likewise of meta rows; `"train"` if those of a step are training rows that it
            does not train on, or a tuple of the languages of which they are; `None` if there is no
            meta text.
        meta_in_every_step: Whether every step holds meta rows of all languages of `meta_sizes`,
            which need not be training languages; otherwise of the training languages of the step.
        batch_size: Training rows per language, micro-step and process.
        meta_batch_size: Meta rows likewise; `None` for `batch_size`.
        languages_per_step: k; `None` for all.
        alpha: The exponent α of the temperature: q_l ∝ n_l^α.
        sampling_weights: q_l up to a factor, in place of n_l^α. Where it is `None` and a size is
            unknown, all languages are taken equally often. Or a plan of the whole run, `UniMax` or
            `Cooldown`, to which α means nothing.
        seed: The seed.
        steps_per_epoch: T, in optimizer steps; `None` for as many as show Σ n_l rows (in either
            role, where meta rows are training rows). Required if training data stream.
        partition: How an optimizer step is divided among processes and micro-steps, each of which
            yields one list; `None` for one process without accumulation.
        shuffle: Whether rows are shuffled; a streaming dataset is read as it comes. The lengths of
            all rows (`row_lengths`) in place of `True`: they are shuffled so that the rows of a
            step are of similar length, and little is padded (`LengthGroups`).

    Raises:
        ConfigurationError: If a number cannot work.
        DataError: If a language has no rows, or too few for both roles of a step.
        LanguageError: If train, meta and weights name different languages.

    Example:
        >>> sizes = {"en": 4, "sw": 2}
        >>> sampler = LanguageBatchSampler(sizes, batch_size=2, steps_per_epoch=1, shuffle=False)
        >>> [(key.language, key.index) for key in next(iter(sampler))]
        [('en', 0), ('en', 1), ('sw', 0), ('sw', 1)]
    """

    def __init__(
        self,
        train_sizes: Mapping[Language, int | None],
        meta_sizes: Mapping[Language, int | None]
        | Literal["train"]
        | tuple[Language, ...]
        | None = None,
        *,
        meta_in_every_step: bool = False,
        batch_size: int,
        meta_batch_size: int | None = None,
        languages_per_step: int | None = None,
        alpha: float = 0.7,
        sampling_weights: Mapping[Language, float] | SamplingPlan | None = None,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        partition: StepPartition | None = None,
        shuffle: bool | Lengths = True,
    ) -> None:
        languages = check_languages(train_sizes)
        self._sizes: dict[Role, Mapping[Language, int | None]] = {"train": train_sizes}
        # The languages of which both roles read the same rows.
        shared: Sequence[Language] = ()
        if meta_sizes == "train":
            shared, self._sizes["meta"] = languages, train_sizes
        elif isinstance(meta_sizes, tuple):
            # Without training rows, a language has none to share: it is refused as empty.
            shared = meta_sizes
            self._sizes["meta"] = {key: train_sizes.get(key, 0) for key in meta_sizes}
        elif meta_sizes is not None:
            self._sizes["meta"] = meta_sizes
        self._meta_in_every_step = meta_in_every_step
        plan, weights = None, sampling_weights
        if isinstance(weights, SamplingPlan):
            plan, weights = weights, None
        _check_sizes(self._sizes, weights, meta_may_differ=meta_in_every_step)

        # Rows of one process and one micro-step.
        if meta_batch_size is None:
            meta_batch_size = batch_size
        self._batch_sizes: dict[Role, int] = {
            "train": check_whole_number("batch_size", batch_size),
            "meta": check_whole_number("meta_batch_size", meta_batch_size),
        }

        if languages_per_step is None:
            languages_per_step = len(languages)
        self._languages_per_step = check_whole_number(
            "languages_per_step", languages_per_step, highest=len(languages)
        )

        self._partition = partition or StepPartition()
        self._shared: dict[Language, SharedRows] = {}
        if shared:
            dealt = SharedRows(self.rows_per_step("train"), self.rows_per_step("meta"))
            others_in_every_step = meta_in_every_step and languages_per_step < len(languages)
            dealt.check(self._sizes["meta"], others_in_every_step=others_in_every_step)
            self._shared = dict.fromkeys(shared, dealt)

        self._seed, self._epoch = seed, 0
        self._steps = self._epoch_length(steps_per_epoch)

        # Exact counts hold over a cycle, which has one part or several.
        if plan is not None:
            self._parts = self._planned(plan)
        else:
            if weights is None:
                weights = _weights(train_sizes, alpha)
            self._parts = [self._counts_per_cycle(languages, weights)]
        self._counts = {key: sum(part[key] for part in self._parts) for key in languages}

        # Each has its own seed: adding a language does not reorder the rows of the others.
        self._streams: dict[tuple[Role, Language], RowStream] = {}
        for role, sizes in self._sizes.items():
            for key, size in sizes.items():
                self._streams[role, key] = self._stream(role, key, size, shuffle)

    def __len__(self) -> int:
        """The number of micro-steps of an epoch."""
        return self._steps * self._partition.accumulation_steps

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of this process, micro-step by micro-step."""
        for languages, visits in islice(self._walk(self._epoch), self._steps):
            for micro_step in range(self._partition.accumulation_steps):
                yield self._keys(languages, visits, micro_step)

    def examples_seen(self, epoch: int, step: int) -> dict[Role, dict[Language, int]]:
        """Count the rows that all processes together were given before a step of an epoch.

        Args:
            epoch: The epoch.
            step: The number of optimizer steps taken in it, at most T. The schedule is replayed up
                to there.

        Returns:
            role → language → rows; a row counts once for each pass over it.
        """
        _, visits = next(islice(self._walk(epoch), step, None))

        rows: dict[Role, dict[Language, int]] = {}
        for role in self._sizes:
            per_step = self.rows_per_step(role)
            counts = self._visits(role, visits)
            rows[role] = {key: count * per_step for key, count in counts.items()}

        return rows

    def rows_per_step(self, role: Role) -> int:
        """Rows of a language in an optimizer step, over all processes and micro-steps."""
        return self._batch_sizes[role] * self._partition.parts

    def _stream(
        self, role: Role, language: Language, size: int | None, shuffle: bool | Lengths
    ) -> RowStream:
        seed = (self._seed, role, language)
        if isinstance(shuffle, bool):
            return RowStream(size, seed, shuffle=shuffle)

        lengths = shuffle[role][language]
        if len(lengths) != size:
            raise ConfigurationError(
                f"`shuffle` must have a length for every row. Found {len(lengths)} for the {size}"
                f" {role} rows of {language!r}. Take them from `row_lengths`."
            )
        return RowStream(size, seed, groups=LengthGroups(lengths, self._rows_read(role, language)))

    def _rows_read(self, role: Role, language: Language) -> int:
        """The rows that an optimizer step takes from the stream of a role and language."""
        if language in self._shared:
            return self._shared[language].total
        return self.rows_per_step(role)

    def _walk(self, epoch: int) -> Iterator[tuple[list[Language], dict[Language, int]]]:
        """Yield, from an epoch on, the languages of each optimizer step and their earlier visits.

        The dict of visits is updated in place as the walk goes on.
        """
        steps = sum(self._counts.values()) // self._languages_per_step
        cycle, skipped = divmod(epoch * self._steps, steps)

        # Every cycle holds exactly the same counts, so whole cycles need not be replayed.
        visits = {key: cycle * count for key, count in self._counts.items()}
        while True:
            for step, languages in enumerate(self._schedule(cycle)):
                if step >= skipped:
                    yield languages, visits
                for key in languages:
                    visits[key] += 1

            cycle, skipped = cycle + 1, 0

    def _schedule(self, cycle: int) -> Iterator[list[Language]]:
        """The languages of each optimizer step of a cycle."""
        for number, counts in enumerate(self._parts):
            # The seed of the first part is that of a cycle of one part.
            seed = (self._seed, "schedule", cycle, *([number] if number else []))
            yield from language_schedule(counts, self._languages_per_step, seed=seed)

    def _keys(
        self, languages: Sequence[Language], visits: Mapping[Language, int], micro_step: int
    ) -> list[Key]:
        keys: list[Key] = []
        for role in self._sizes:
            counts = self._visits(role, visits)
            for language in self._held(role, languages):
                rows = self._rows(role, language, counts[language], micro_step)
                keys += [Key(role, language, row, visit) for row, visit in rows]

        return keys

    def _rows(
        self, role: Role, language: Language, visit: int, micro_step: int
    ) -> list[tuple[int, int]]:
        """The rows of a role and language in a micro-step of this process, each with its pass."""
        batch_size, size = self._batch_sizes[role], self._sizes["train"].get(language)
        if language not in self._shared or size is None:
            positions = self._partition.positions(visit, micro_step, batch_size)
            return self._streams[role, language].rows(positions)

        # Both roles read the same stream, so that its permutations are those of both.
        within = self._partition.positions(0, micro_step, batch_size)
        positions = self._shared[language].positions(role, size, visit, within)
        return self._streams["train", language].rows(positions)

    def _held(self, role: Role, languages: Sequence[Language]) -> Sequence[Language]:
        """The languages of a role in a step, given the training languages."""
        if role == "meta" and self._meta_in_every_step:
            return list(self._sizes[role])
        return languages

    def _visits(self, role: Role, visits: Mapping[Language, int]) -> Mapping[Language, int]:
        """How often each language of a role was in a step, given that of the training languages."""
        if role == "train" or not self._meta_in_every_step:
            return visits

        # Each step so far held k training languages, and all meta languages.
        steps = sum(visits.values()) // self._languages_per_step
        return dict.fromkeys(self._sizes[role], steps)

    def _epoch_length(self, steps_per_epoch: int | None) -> int:
        if steps_per_epoch is not None:
            return check_whole_number("steps_per_epoch", steps_per_epoch)

        sizes = self._sizes["train"]
        streaming = [key for key, size in sizes.items() if size is None]
        if streaming:
            raise ConfigurationError(
                "The length of an epoch must be known. Found streaming training data for"
                f" {streaming}. Set the length, for example `steps_per_epoch=1000` here, or"
                " `max_steps=1000` in the training arguments."
            )

        # As many steps as show the rows of all languages, each once if it is sampled by its size.
        rows = sum(size or 0 for size in sizes.values())
        per_step = sum(self._rows_read("train", key) for key in sizes)
        return ceil(rows * len(sizes) / (self._languages_per_step * per_step))

    def _counts_per_cycle(
        self, languages: Sequence[Language], weights: Mapping[Language, float]
    ) -> dict[Language, int]:
        """Return c_l: in how many steps of a cycle each language is."""
        # Exact counts, not independent draws: by chance, a rare language could miss an epoch.
        # Where one epoch has no room for every language, a cycle is several epochs.
        steps = ceil(len(languages) / (self._steps * self._languages_per_step)) * self._steps
        return apportion(
            steps * self._languages_per_step,
            {key: weights[key] for key in languages},
            minimum=1,
            maximum=steps,
        )

    def _planned(self, plan: SamplingPlan) -> list[dict[Language, int]]:
        """The same of each part of a run, which is then the cycle."""
        return plan.parts(
            self._sizes["train"],
            steps_per_epoch=self._steps,
            languages_per_step=self._languages_per_step,
            rows={key: self._rows_read("train", key) for key in self._sizes["train"]},
            whole_steps=self._shared,
        )


def _weights(sizes: Mapping[Language, int | None], alpha: float) -> dict[Language, float]:
    known = {key: size for key, size in sizes.items() if size is not None}
    if len(known) < len(sizes):
        # With a stream of unknown size among them, no language can claim a larger share.
        known = dict.fromkeys(sizes, 1)

    return temperature_distribution(known, alpha)


def _check_sizes(
    sizes: Mapping[Role, Mapping[Language, int | None]],
    weights: Mapping[Language, float] | None,
    *,
    meta_may_differ: bool,
) -> None:
    """Check that all roles, and the weights, name the same languages, and that each has rows."""
    train = sizes["train"]
    others: dict[str, Mapping[Language, object]] = {"`sampling_weights`": weights or train}
    if not meta_may_differ:
        others["meta text"] = sizes.get("meta", train)

    for name, other in others.items():
        if set(other) != set(train):
            raise LanguageError(
                f"Training text and {name} must have the same languages. Found {list(train)} and"
                f" {list(other)}. Add or remove languages in one of them."
            )

    for role, role_sizes in sizes.items():
        empty = [key for key, size in role_sizes.items() if size == 0]
        if empty:
            raise DataError(
                f"The {role} data of {empty} must hold examples. Found none. Remove these"
                " languages."
            )

"""From the examples of a step to its batches: one for each role and language, made by any collator of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.data.language_datasets import Keyed
from hf_meta_adapters.data.seeding import seeded, stable_seed
from hf_meta_adapters.errors import DataError, MetaAdapterError

StepBatch: TypeAlias = dict[Role, dict[Language, Batch]]
"""role → language → batch."""


class LanguageCollator:
    """Calls a collator once for each role and language of a step.

    Random numbers that the collator draws (the masks of masked language modelling) are seeded by
    the keys of the batch and put back afterwards: a batch is the same whichever worker, process or
    resumed run makes it, it is masked anew at every visit, and making it leaves the random state of
    training alone. A collator with a generator of its own (the `seed` of
    `DataCollatorForLanguageModeling`) does without all that: leave its seed unset.

    Args:
        data_collator: A function from a list of examples to a batch, such as
            `DataCollatorForLanguageModeling`.
        seed: The seed.
        check: Called with role, language and batch before a batch is handed on; it raises where
            that cannot work.

    Raises:
        DataError: Of the call: where the collator cannot make a batch of the rows.

    Example:
        >>> from hf_meta_adapters.data import Key
        >>> collator = LanguageCollator(lambda examples: {"input_ids": examples})
        >>> collator([(Key("train", "sw", 0), 5), (Key("train", "sw", 1), 6), (Key("meta", "sw", 0), 7)])
        {'train': {'sw': {'input_ids': [5, 6]}}, 'meta': {'sw': {'input_ids': [7]}}}
    """

    def __init__(
        self,
        data_collator: Callable[[list[Any]], Batch],
        seed: int = 0,
        check: Callable[[Role, Language, Batch], None] | None = None,
    ) -> None:
        self.data_collator = data_collator
        self._seed = seed
        self._check = check

    def __call__(self, keyed: Sequence[Keyed]) -> StepBatch:
        """Collate the examples of a step.

        Args:
            keyed: Examples with their keys.

        Returns:
            role → language → batch, in the order in which they come; roles that do not come are
            absent.
        """
        groups: dict[tuple[Role, Language], list[Keyed]] = {}
        for key, example in keyed:
            groups.setdefault((key.role, key.language), []).append((key, example))
        step: StepBatch = {}
        for (role, language), group in groups.items():
            drawn = (number for key, _ in group for number in (key.index, key.visit))
            with seeded(stable_seed(self._seed, role, language, *drawn)):
                batch = self._collate(role, language, [example for _, example in group])
            if self._check is not None:
                self._check(role, language, batch)
            step.setdefault(role, {})[language] = batch
        return step

    def _collate(self, role: Role, language: Language, examples: list[Any]) -> Batch:
        try:
            return self.data_collator(examples)
        except MetaAdapterError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            first = examples[0]
            columns = (
                f"columns {sorted(map(str, first))}"
                if isinstance(first, Mapping)
                else f"`{type(first).__name__}`"
            )
            raise DataError(
                f"The data collator must be able to make a batch of the rows. Found {role} rows of"
                f" {language!r} with {columns}, of which `{type(self.data_collator).__name__}`"
                f" cannot: {' '.join(str(error).split()).rstrip('.')}. Tokenize the text, so that"
                " rows have `input_ids`, or pass the `data_collator` that the rows need."
            ) from error

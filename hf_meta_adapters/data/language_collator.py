"""From the examples of a step to its batches, one for each role and language, by any collator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data.key import Example, Keyed, Role
from hf_meta_adapters.data.seeding import seeded, stable_seed
from hf_meta_adapters.errors import DataError, MetaAdapterError

StepBatch: TypeAlias = dict[Role, dict[Language, Batch]]
"""role → language → batch."""


class LanguageCollator:
    """Calls a collator once for each role and language of a step.

    Random numbers that the collator draws (the masks of masked language modeling) are seeded by
    the keys of the batch, and the random state is restored afterwards: a batch is the same
    whichever worker, process or resumed run makes it, it is masked anew at every visit, and making
    it leaves the random state of training alone. A collator with a generator of its own (the `seed`
    of `DataCollatorForLanguageModeling`) bypasses all this: leave its seed unset.

    Args:
        data_collator: A function from a list of examples to a batch, such as
            `DataCollatorForLanguageModeling`.
        seed: The seed.
        check: Called with role, language and batch before a batch is handed on; it raises an error
            where the model could not take the batch.

    Raises:
        DataError: Of the call: where the collator cannot make a batch of the rows.

    Example:
        >>> from hf_meta_adapters.data.key import Key
        >>> collator = LanguageCollator(lambda examples: {"input_ids": examples})
        >>> train = [(Key("train", "sw", 0), 5), (Key("train", "sw", 1), 6)]
        >>> collator([*train, (Key("meta", "sw", 0), 7)])
        {'train': {'sw': {'input_ids': [5, 6]}}, 'meta': {'sw': {'input_ids': [7]}}}
    """

    def __init__(
        self,
        data_collator: Callable[[list[Example]], Batch],
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
            role → language → batch, in the order of their first examples; roles without examples
            are absent.
        """
        groups: dict[tuple[Role, Language], list[Keyed]] = {}
        for key, example in keyed:
            groups.setdefault((key.role, key.language), []).append((key, example))

        step: StepBatch = {}
        for (role, language), group in groups.items():
            with seeded(self._seed_of(role, language, group)):
                batch = self._collate(role, language, [example for _, example in group])

            if self._check is not None:
                self._check(role, language, batch)
            step.setdefault(role, {})[language] = batch

        return step

    def _seed_of(self, role: Role, language: Language, group: Sequence[Keyed]) -> int:
        # By the keys alone, so that it does not matter how many batches this worker made before.
        numbers: list[int] = []
        for key, _ in group:
            numbers += (key.index, key.visit)

        return stable_seed(self._seed, role, language, *numbers)

    def _collate(self, role: Role, language: Language, examples: list[Example]) -> Batch:
        try:
            return self.data_collator(examples)
        except MetaAdapterError:
            raise
        # What collators of transformers and torch raise on rows that they do not understand; the
        # message must name the language, which they do not know.
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            # transformers wraps a collator in one that drops columns.
            collator = getattr(self.data_collator, "data_collator", self.data_collator)
            name = getattr(collator, "__name__", type(collator).__name__)
            raise DataError(
                f"The data collator must be able to make a batch of the rows. Found {role} rows of"
                f" {language!r} with {_describe(examples[0])}, on which"
                f" `{name}` failed: {reason}. {_instead(examples[0])}"
            ) from error


def _instead(example: Example) -> str:
    if not isinstance(example, Mapping) or "input_ids" not in example:
        return (
            "Tokenize the text so that rows have `input_ids`, or pass a `data_collator` that"
            " handles these rows."
        )

    words = [name for name in ("label", "labels") if isinstance(example.get(name), str)]
    if words:
        return f"Give `{words[0]}` as a number: the place of the label in a list of all labels."
    return (
        "Rows of unequal length need a collator that pads them: pass the tokenizer as"
        " `processing_class`, or a `data_collator` that handles these rows."
    )


def _describe(example: Example) -> str:
    if isinstance(example, Mapping):
        return f"columns {sorted(map(str, example))}"

    return f"`{type(example).__name__}`"

"""Few labelled examples of each target language, drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from datasets import Dataset

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.data.seeding import stable_seed
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["draw_shots", "halves", "selected"]


def draw_shots(
    train: Mapping[Language, Rows], targets: Sequence[Language], shots: int, *, seed: int
) -> dict[Language, list[int]]:
    """Draw k examples of each target language without replacement.

    With the same seed, the examples of a smaller k are the first of those of a larger one, and
    those of a language do not depend on which other languages there are.

    Args:
        train: Language → labelled examples.
        targets: The languages to draw from.
        shots: k.
        seed: The seed.

    Returns:
        Language → the numbers of the rows.

    Raises:
        ConfigurationError: If k is not a whole number of at least 1.
        DataError: If a language has fewer than k examples; the message names all of them.

    Example:
        >>> rows = {"sw": [{"text": str(number)} for number in range(100)]}
        >>> few, more = (draw_shots(rows, ["sw"], k, seed=0)["sw"] for k in (3, 5))
        >>> len(set(more)), more[:3] == few
        (5, True)
    """
    if not isinstance(shots, int) or shots < 1:
        raise ConfigurationError(
            "`shots` must be a whole number of at least 1, the number of labelled examples of each"
            f" target language. Found {shots!r}. For none, use zero-shot."
        )

    short = {key: len(train[key]) for key in targets if len(train[key]) < shots}
    if short:
        raise DataError(
            f"Every target language must have at least `shots` labelled examples, {shots}. Found"
            f" {short}. Use `shots={min(short.values())}`, or leave these languages out."
        )

    drawn = {}
    for language in targets:
        # A whole permutation: its beginning does not depend on k.
        rows = list(range(len(train[language])))
        random.Random(stable_seed(seed, "shots", language)).shuffle(rows)
        drawn[language] = rows[:shots]
    return drawn


def selected(rows: Rows, numbers: Sequence[int]) -> Rows:
    """Return some examples, in the order of their numbers."""
    if isinstance(rows, Dataset):
        chosen: Rows = rows.select(numbers)
        return chosen
    return [rows[number] for number in numbers]


def halves(
    rows: Rows,
    numbers: Sequence[int],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    language: Language,
) -> tuple[list[int], list[int]]:
    """Split drawn examples into a half to train on and one for the meta-gradient.

    Examples of the same text stay together: no text has two roles.

    Args:
        rows: The examples of the language.
        numbers: The numbers of those that were drawn.
        task: The task.
        tokenizer: The tokenizer, which decides which texts are the same.
        language: The language.

    Returns:
        The numbers of the training examples, and of the meta examples.

    Raises:
        DataError: If all examples have the same text.
    """
    texts: dict[int, list[tuple[int, ...]]] = {number: [] for number in numbers}
    for row in task.features(selected(rows, numbers), tokenizer, language=language):
        texts[numbers[row["example"]]].append(tuple(row["input_ids"]))

    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, text in texts.items():
        groups.setdefault(tuple(text), []).append(number)

    if len(groups) < 2:
        raise DataError(
            "Examples of two roles must be at least two different texts. Found"
            f" {len(numbers)} of {language!r} with {len(groups)}. Use more `shots`, or"
            ' `target_role="meta"`, under which all of them have one role.'
        )

    # In the order of the draw, until half of the examples are in; one group is left at least.
    *first, last = groups.values()
    train, meta = list(first.pop(0)), list(last)
    for group in first:
        fills = len(train) + len(group) <= (len(numbers) + 1) // 2
        (train if fills else meta).extend(group)
    return train, meta

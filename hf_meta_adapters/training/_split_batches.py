"""Batches of one language each, from batches whose rows carry a language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError, DataError, check_language
from hf_meta_adapters.steps.batch_rows import take_rows


def split_batches(
    batches: Iterable[Batch], column: str, languages: Sequence[Language] | None
) -> dict[Language, list[Batch]]:
    """Split batches by the language of their rows.

    Args:
        batches: Batches with an entry `column`: a language per row, as strings or numbers, or one
            for all rows.
        column: The name of that entry; it is kept.
        languages: The names of the languages that numbers stand for, from 0.

    Returns:
        language → batches.

    Raises:
        DataError: If a batch does not say its languages.

    Example:
        >>> import torch
        >>> batch = {"input_ids": torch.tensor([[5], [6], [7]]), "language": ["en", "sw", "en"]}
        >>> split_batches([batch], "language", None)["en"]
        [{'input_ids': tensor([[5],
                [7]]), 'language': ['en', 'en']}]
    """
    by_language: dict[Language, list[Batch]] = {}

    for batch in batches:
        values = _language_entry(batch, column)
        if isinstance(values, str):
            by_language.setdefault(check_language(values), []).append(batch)
            continue

        # Rows keep their order; entries without rows (a flag, say) go to every language.
        rows: dict[Language, list[int]] = {}
        for row, value in enumerate(values):
            rows.setdefault(language_name(value, languages), []).append(row)

        for language, chosen in rows.items():
            part = {name: take_rows(entry, chosen, len(values)) for name, entry in batch.items()}
            by_language.setdefault(language, []).append(part)

    return by_language


def language_name(value: str | int, languages: Sequence[Language] | None) -> Language:
    """The key of a language that is given by its key or by its number.

    Args:
        value: Key or number.
        languages: The names of the languages that numbers stand for, from 0.

    Returns:
        The key.

    Raises:
        ConfigurationError: If a number has no name.
        LanguageError: If it is not a valid key.
    """
    if isinstance(value, str):
        return check_language(value)

    number = int(value)
    if languages is None or not 0 <= number < len(languages):
        raise ConfigurationError(
            f"A language that is given as a number needs a name. Found the number {number} and"
            f' `languages={languages}`. Pass for example `languages=["en", "sw"]`, in the order of'
            " the numbers."
        )
    return check_language(languages[number])


def _language_entry(batch: object, column: str) -> str | Sequence[str | int]:
    """What a batch says of its languages: one for all rows, or one per row."""
    if isinstance(batch, Mapping) and column in batch:
        values = batch[column]
        if isinstance(values, Tensor):
            return list(values.tolist())
        entry: str | Sequence[str | int] = values
        return entry

    found: object = type(batch).__name__
    if isinstance(batch, Mapping):
        found = sorted(batch)
    raise DataError(
        f"A batch must say the language of each row in an entry {column!r}. Found {found}. Name the"
        " entry with `language_column`, or pass the batches of each language:"
        ' `batches={"en": [...], "sw": [...]}`.'
    )

"""Probe batches of each language, drawn once, for diagnostics that run beside training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data import LanguageCollator, LanguageDatasets
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    check_language,
    check_languages,
)

_ROWS_LOOKED_AT = (
    20_000  # of a dataset that tokenizes as it is read, all would take as long as an epoch
)


def split_batches(
    batches: Iterable[Batch], column: str, languages: Sequence[Language] | None
) -> dict[Language, list[Batch]]:
    """Return batches of one language each, made from batches whose rows carry a language.

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
        >>> batch = {"input_ids": torch.tensor([[5], [6], [7]]), "language": ["en", "sw", "en"]}
        >>> split_batches([batch], "language", None)["en"]
        [{'input_ids': tensor([[5],
                [7]]), 'language': ['en', 'en']}]
    """
    found: dict[Language, list[Batch]] = {}
    for batch in batches:
        if not isinstance(batch, Mapping) or column not in batch:
            names = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise DataError(
                f"A batch must say the language of each row in an entry {column!r}. Found {names}."
                " Name the entry with `language_column`, or give the batches of each language:"
                ' `batches={"en": [...], "sw": [...]}`.'
            )
        values = batch[column]
        if isinstance(values, str):
            found.setdefault(check_language(values), []).append(batch)
            continue
        rows: dict[Language, list[int]] = {}
        for row, value in enumerate(values.tolist() if isinstance(values, Tensor) else values):
            rows.setdefault(_name(value, languages), []).append(row)
        for language, chosen in rows.items():
            found.setdefault(language, []).append(
                {k: _take(v, chosen, len(values)) for k, v in batch.items()}
            )
    return found


def draw_batches(
    loader: Any,
    dataset: Any,
    *,
    column: str,
    languages: Sequence[Language] | None,
    count: int,
    batch_size: int,
    seed: int,
) -> dict[Language, list[Batch]]:
    """Return batches of each language from rows drawn at random, without a trace in the training run.

    Neither the loader nor its sampler is iterated. Random numbers that rows and collator draw are
    put back, and a collator with a generator of its own is copied first.

    Args:
        loader: The training loader, which has the collator.
        dataset: language → map-style data, or map-style data with a column that names the language;
            default the data of the loader.
        column: Name of that column.
        languages: Names of the languages that numbers stand for, from 0.
        count: Batches per language; fewer where a language has fewer rows.
        batch_size: Rows of a batch; fewer where a language has fewer than `count` times as many.
        seed: Seed of the choice, and of what the collator draws.

    Returns:
        language → batches.

    Raises:
        DataError: If rows do not say their language, or cannot be chosen.
    """
    source = loader.dataset if dataset is None else dataset
    collate: Callable[[list[Any]], Batch] = copy.deepcopy(loader.collate_fn)
    if isinstance(collate, LanguageCollator):
        collate = collate.data_collator
    columns = None if dataset is None else getattr(loader.dataset, "column_names", None)
    found: dict[Language, list[Batch]] = {}
    with seeded(seed):
        for language, rows in _rows(source, column, languages, count * batch_size).items():
            size = min(batch_size, max(1, len(rows) // count))
            kept = [{k: row[k] for k in columns if k in row} if columns else row for row in rows]
            found[language] = [
                collate(kept[start : start + size])
                for start in range(0, min(len(kept), count * size), size)
            ]
    return found


def _rows(
    source: Any, column: str, languages: Sequence[Language] | None, most: int
) -> dict[Language, list[Any]]:
    """Return up to `most` rows of each language, chosen at random."""
    if isinstance(source, LanguageDatasets):
        source = source.of_role("train")
    if isinstance(source, Mapping):
        check_languages(source)
        return {
            key: [one[row] for row in _order(one, column)[:most]] for key, one in source.items()
        }
    names = getattr(source, "column_names", None)
    if names is not None and column not in names:
        raise DataError(
            f"The training data must say the language of each row in a column {column!r}. Found the"
            f" columns {names}; the Trainer drops those that the model does not take. Write"
            " `GradientConflictCallback(dataset=...)` with the data as you gave it to the Trainer,"
            " or give `batches`."
        )
    order = _order(source, column)
    values = source.select(order)[column] if names is not None else _values(source, order, column)
    chosen: dict[Language, list[int]] = {}
    for row, value in zip(order, values, strict=True):
        several = chosen.setdefault(_name(value, languages), [])
        if len(several) < most:
            several.append(row)
    return {
        language: [source[row] for row in several] for language, several in sorted(chosen.items())
    }


def _order(source: Any, column: str) -> list[int]:
    size = size_of(source)
    if size is None:
        raise DataError(
            "Rows for `GradientConflictCallback` are drawn from data whose rows can be chosen."
            f" Found the streaming `{type(source).__name__}`. Give some of its batches: `batches=`"
            f" with a list of batches that have an entry {column!r}, or language → batches."
        )
    order: list[int] = torch.randperm(size)[:_ROWS_LOOKED_AT].tolist()
    return order


def _values(source: Any, order: Sequence[int], column: str) -> Iterator[Any]:
    for index in order:
        row = source[index]
        if not isinstance(row, Mapping) or column not in row:
            found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(
                f"The training data must say the language of each row in a column {column!r}. Found"
                f" {found} in row {index}. Name the column with `language_column`, or give"
                " `batches`."
            )
        yield row[column]


def _name(value: Any, languages: Sequence[Language] | None) -> Language:
    """Return the key of a language that is given by its key or by its number."""
    if isinstance(value, str):
        return check_language(value)
    if languages is None or not 0 <= int(value) < len(languages):
        raise ConfigurationError(
            f"A language that is given as a number needs a name. Found the number {int(value)} and "
            f'`languages={languages}`. Write for example `languages=["en", "sw"]`, in the order of'
            " the numbers."
        )
    return check_language(languages[int(value)])


def _take(value: Any, rows: Sequence[int], size: int) -> Any:
    """Return some rows of an entry of a batch; an entry that has no rows stays whole."""
    if isinstance(value, Tensor):
        return value[list(rows)] if value.dim() and len(value) == size else value
    return (
        [value[row] for row in rows]
        if isinstance(value, list | tuple) and len(value) == size
        else value
    )

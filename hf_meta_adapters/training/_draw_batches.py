"""Probe batches of each language, drawn from training data, for diagnostics during training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import datasets
import torch
from torch.utils.data import DataLoader

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data import LanguageCollator, LanguageDatasets
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import DataError, check_languages
from hf_meta_adapters.steps.counted_labels import counted
from hf_meta_adapters.training._split_batches import language_name
from hf_meta_adapters.training.default_collator import Collator

# Of a dataset that is tokenized as it is read, all rows would take as long as an epoch.
_MOST_ROWS_READ = 20_000

Source: TypeAlias = Any
"""Data with a length: language → data, or data whose rows name their language in a column."""

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Draw:
    """How probe batches are drawn.

    Args:
        column: The column that names the language of a row.
        languages: The names of the languages that numbers stand for, from 0.
        count: Batches per language; fewer where a language has fewer rows.
        batch_size: Rows of a batch; fewer where a language has fewer than `count` times as many.
        seed: The seed of the choice, and of what the collator draws.
    """

    column: str
    languages: Sequence[Language] | None
    count: int
    batch_size: int
    seed: int


def draw_batches(
    loader: DataLoader[Any], source: Source | None, draw: Draw
) -> dict[Language, list[Batch]]:
    """Return batches of each language from rows drawn at random, without a trace in the run.

    Neither the loader nor its sampler is iterated. The random state is restored after rows and
    collator have drawn from it, and a collator with its own generator is copied first.

    Args:
        loader: The training loader, which has the collator.
        source: Where to draw from; default the data of the loader.
        draw: What to draw.

    Returns:
        language → batches.

    Raises:
        DataError: If rows do not say their language, or cannot be chosen.
    """
    # A copy, as drawing from a generator of the collator's would shift its masks in training.
    collate: Collator = copy.deepcopy(loader.collate_fn)
    if isinstance(collate, LanguageCollator):
        collate = collate.data_collator  # which makes a batch of one language

    # The Trainer has dropped the columns of its own data that the model does not take. Of other
    # data, the same ones are dropped here.
    columns = None
    if source is None:
        source = loader.dataset
    else:
        columns = _column_names(loader.dataset)

    # Reading a row may draw random numbers (augmentation), and so may the collator (masks).
    batches: dict[Language, list[Batch]] = {}
    with seeded(draw.seed):
        for language, rows in _rows(source, draw).items():
            size = min(draw.batch_size, max(1, len(rows) // draw.count))
            kept = _with_columns(rows, columns)
            starts = range(0, min(len(kept), draw.count * size), size)
            drawn = [collate(kept[start : start + size]) for start in starts]

            # The loss of a batch in which nothing was masked is NaN. Where there is no other, the
            # diagnostic itself says so.
            batches[language] = [batch for batch in drawn if any(counted(batch))] or drawn

    return batches


def _rows(source: Source, draw: Draw) -> dict[Language, list[Row]]:
    """The rows of `count` batches of each language, chosen at random."""
    most = draw.count * draw.batch_size
    if isinstance(source, LanguageDatasets):
        source = source.of_role("train")

    if isinstance(source, Mapping):
        check_languages(source)
        by_language = {}
        for language, dataset in source.items():
            order = _random_order(dataset, draw.column)[:most]
            by_language[language] = [dataset[row] for row in order]
        return by_language

    return _rows_by_column(source, draw, most)


def _rows_by_column(source: Source, draw: Draw, most: int) -> dict[Language, list[Row]]:
    """Up to `most` rows of each language, of data whose rows name their language."""
    names = _column_names(source)
    if names is not None and draw.column not in names:
        raise DataError(
            "The training data must say the language of each row in a column"
            f" {draw.column!r}. Found the columns {names}; the Trainer drops those that the model"
            " does not take. Pass `GradientConflictCallback(dataset=...)` the data that you gave"
            " to the Trainer, or pass `batches`."
        )

    # The languages of all rows are read before any row is: of a table that is one column.
    order = _random_order(source, draw.column)
    chosen: dict[Language, list[int]] = {}
    for row, value in zip(order, _values(source, order, draw.column), strict=True):
        rows = chosen.setdefault(language_name(value, draw.languages), [])
        if len(rows) < most:
            rows.append(row)

    # In the order of the languages' names: that of the rows depends on the seed.
    by_language = {}
    for language, rows in sorted(chosen.items()):
        by_language[language] = [source[row] for row in rows]
    return by_language


def _random_order(dataset: Source, column: str) -> list[int]:
    size = size_of(dataset)
    if size is None:
        raise DataError(
            "Rows for `GradientConflictCallback` are drawn from data whose rows can be chosen."
            f" Found the streaming `{type(dataset).__name__}`. Pass some of its batches: `batches=`"
            f" with a list of batches that have an entry {column!r}, or language → batches."
        )

    order: list[int] = torch.randperm(size)[:_MOST_ROWS_READ].tolist()
    return order


def _values(source: Source, order: Sequence[int], column: str) -> Iterator[str | int]:
    """The languages of rows; a table gives them without reading its other columns."""
    if isinstance(source, datasets.Dataset):
        yield from source.select(order)[column]
        return

    for index in order:
        row = source[index]
        if not isinstance(row, Mapping) or column not in row:
            found: object = type(row).__name__
            if isinstance(row, Mapping):
                found = sorted(row)
            raise DataError(
                f"The training data must say the language of each row in a column {column!r}. Found"
                f" {found} in row {index}. Name the column with `language_column`, or pass"
                " `batches`."
            )
        yield row[column]


def _column_names(dataset: Source) -> list[str] | None:
    """The columns of a table; `None` for other data, and for streams that do not know theirs."""
    if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        names: list[str] | None = dataset.column_names
        return names
    return None


def _with_columns(rows: list[Row], columns: list[str] | None) -> list[Row]:
    if not columns:
        return rows

    reduced: list[Row] = []
    for row in rows:
        reduced.append({name: row[name] for name in columns if name in row})
    return reduced

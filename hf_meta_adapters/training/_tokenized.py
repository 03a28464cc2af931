"""Text that nobody has tokenized is refused before training."""

from __future__ import annotations

from collections.abc import Mapping

import datasets

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.language_datasets import is_map_style
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.training._given_data import without_sets


def check_tokenized(role: str, by_language: object, main_input: str) -> None:
    """Check that rows have what the model reads, where no collator can make it of their text.

    Args:
        role: The argument, such as "train_dataset", for the message.
        by_language: What was given for it: language → data.
        main_input: The name of the model's input, such as "input_ids".

    Raises:
        DataError: If rows of a language have text in its place.
    """
    if not isinstance(by_language, Mapping):
        return

    # Text may have been forgotten in one language only.
    found: dict[Language, str] = {}
    for language, dataset in without_sets(by_language).items():
        row = _first_row(dataset)
        column = next((name for name, value in row.items() if isinstance(value, str)), None)
        if column is not None and not {main_input, "inputs_embeds"} & row.keys():
            found[language] = column

    if not found:
        return

    language, column = next(iter(found.items()))
    raise DataError(
        f"The rows of `{role}` must be tokenized. Found text in the column {column!r} and no"
        f" `{main_input}` for {list(found)}. Tokenize it, as in `data[{language!r}] ="
        f" data[{language!r}].map(lambda rows: tokenizer(rows[{column!r}], truncation=True),"
        f" batched=True, remove_columns={column!r})`, or pass a `data_collator`"
        " that tokenizes, with `remove_unused_columns=False`."
    )


def _first_row(dataset: object) -> Mapping[str, object]:
    """The first row; nothing of a stream, which may be costly to begin."""
    if isinstance(dataset, datasets.IterableDataset) or not is_map_style(dataset):
        return {}

    row: object = dataset[0] if len(dataset) else {}
    return row if isinstance(row, Mapping) else {}

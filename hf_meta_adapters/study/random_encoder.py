"""A small encoder with random weights, for the smallest form of studies of a real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import transformers

from hf_meta_adapters._typing import Keywords, Language
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.pretraining import new_model, train_tokenizer
from hf_meta_adapters.study.whole_folder import whole_folder

__all__ = ["random_encoder"]

_SEED, _POSITIONS, _VOCABULARY, _ROWS = 0, 64, 500, 50


def random_encoder(
    folder: str | Path, labelled: str | Path, languages: Sequence[Language], sizes: Keywords
) -> str:
    """Make an XLM-R masked language model with random weights, and its tokenizer, in a folder.

    Args:
        folder: The folder; if it is there, nothing is made.
        labelled: The folder with `<language>/train.jsonl(.gz)`, on whose texts the tokenizer is
            trained.
        languages: The languages.
        sizes: Arguments of the config, such as `hidden_size`.

    Returns:
        The folder.
    """
    place = Path(folder)
    if place.is_dir():
        return str(place)

    rows = load_local_datasets(labelled, "train", languages=languages, limit=_ROWS)
    texts = [_text(row) for row in chain(*rows.values())]
    tokenizer = train_tokenizer(texts, vocabulary=_VOCABULARY, max_length=_POSITIONS)

    transformers.set_seed(_SEED)
    model = new_model(transformers.AutoModelForMaskedLM, "xlm-roberta", sizes, tokenizer)
    with whole_folder(place) as new:
        tokenizer.save_pretrained(new)
        model.save_pretrained(new)
    return str(place)


def _text(row: Mapping[str, Any]) -> str:
    """The words of an example of any task."""
    words = row.get("tokens") or [value for value in row.values() if isinstance(value, str)]
    return " ".join(words)

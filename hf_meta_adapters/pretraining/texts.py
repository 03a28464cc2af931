"""The texts of a pretraining run, and those that a new tokenizer learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.bundled.folders import texts_folder
from hf_meta_adapters.data import load_language_datasets, load_local_datasets
from hf_meta_adapters.pretraining._text_arguments import TextArguments

__all__ = ["balanced_texts", "load_texts"]


def load_texts(
    args: TextArguments, split: str, *, languages: Sequence[Language] | None = None
) -> dict[Language, Dataset]:
    """Load one split of the texts that the settings name, from a folder or from the Hub.

    Args:
        args: The settings: `data`, `languages`, `names`, `revision` and `limit`.
        split: The name of the split.
        languages: The languages. Default: `args.languages`, or else all folders of a local folder
            and all keys of `names` on the Hub.

    Returns:
        Language → data with a column `text`.

    Raises:
        DataError: If data is missing or malformed.
    """
    keys = list(languages or args.languages)
    if texts_folder(args.data).is_dir():
        return load_local_datasets(args.data, split, languages=keys or None, limit=args.limit)

    return load_language_datasets(
        args.data,
        split,
        languages=keys or list(args.names),
        names=args.names,
        revision=args.revision,
        limit=args.limit,
    )


def balanced_texts(texts: Mapping[Language, Dataset]) -> Iterator[str]:
    """Yield the texts of all languages, as many of each as the smallest language has.

    A tokenizer that is trained on all texts spends its vocabulary on the largest languages.

    Args:
        texts: Language → data with a column `text`.

    Returns:
        The texts, language after language.
    """
    smallest = min(len(dataset) for dataset in texts.values())

    for dataset in texts.values():
        yield from dataset.select(range(smallest))["text"]

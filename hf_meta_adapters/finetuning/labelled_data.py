"""The labelled data of a fine-tuning experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data import load_language_datasets
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.hub.manifest import read_manifest

__all__ = ["load_labelled_data"]

LabelledData = dict[Language, Dataset]


def load_labelled_data(args: FinetuningArguments) -> tuple[LabelledData, LabelledData]:
    """Load the training data and the test data that a protocol needs.

    Zero-shot trains on the source language only, within-language on every language that is scored,
    few-shot on both.

    Args:
        args: The settings: the model, the protocol with its languages, and where the data are.

    Returns:
        Language → training examples, the source language first; and language → test examples.

    Raises:
        DataError: If data is missing or malformed.
        HubError: If the model is missing or damaged.
    """
    languages = args.languages or list(read_manifest(Path(args.model)).languages)

    if args.protocol == "zero-shot":
        labelled = [args.source_language]
    elif args.protocol == "within-language":
        labelled = list(dict.fromkeys(languages))
    else:
        labelled = list(dict.fromkeys([args.source_language, *languages]))

    train = _load(args, args.train_split, labelled, args.train_limit)
    test = _load(args, args.test_split, languages, args.test_limit)
    return train, test


def _load(
    args: FinetuningArguments, split: str, languages: Sequence[Language], limit: int | None
) -> LabelledData:
    return load_language_datasets(
        args.data,
        split,
        languages=languages,
        names=args.names,
        id_prefixes=args.id_prefixes,
        revision=args.revision,
        limit=limit,
    )

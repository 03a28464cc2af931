"""The labelled data of a fine-tuning experiment."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data import load_language_datasets
from hf_meta_adapters.data.available import available_languages
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.hub.download import list_languages

__all__ = ["load_labelled_data", "load_selection_data"]

LabelledData = dict[Language, Dataset]

logger = logging.getLogger(__name__)


def load_labelled_data(args: FinetuningArguments) -> tuple[LabelledData, LabelledData]:
    """Load the training data and the test data that a protocol needs.

    Zero-shot trains on the source language only, within-language on every language that is scored,
    the others on the source and on every other language that is scored and has labels. Where
    `languages` names none, all languages of the model that have test data are scored; a message
    names the others.

    Args:
        args: The settings: the model, the protocol with its languages, and where the data are.

    Returns:
        Language → training examples, the source language first; and language → test examples.

    Raises:
        DataError: If data is missing or malformed.
        HubError: If the model is missing or damaged.
    """
    languages = list(args.languages)
    if not languages:
        languages = _scored_languages(args)

    labelled = list(dict.fromkeys(languages))
    if args.protocol != "within-language":
        # A language without labels is scored zero-shot, and named there.
        others = (
            [] if args.protocol == "zero-shot" else _available(args, args.train_split, labelled)
        )
        labelled = list(dict.fromkeys([args.source_language, *others]))

    train = _load(args, args.train_split, labelled, args.train_limit)
    test = _load(args, args.test_split, languages, args.test_limit)
    return train, test


def load_selection_data(
    args: FinetuningArguments, languages: Iterable[Language]
) -> LabelledData | None:
    """Load the data to select a model on, of those languages that have it.

    Args:
        args: The settings; `eval_split` names the split.
        languages: The languages that are trained on.

    Returns:
        Language → selection examples; `None` without `eval_split`.

    Raises:
        DataError: If no language has that split, or data is malformed.
    """
    if not args.eval_split:
        return None

    keys = list(languages)
    found = _available(args, args.eval_split, keys)
    if not found:
        raise DataError(
            "A language that is trained on must have the split to select a model on. Found no"
            f" {args.eval_split!r} of {keys} in {args.data}. Name another `--eval_split`, or leave"
            " it out."
        )
    return _load(args, args.eval_split, found, args.test_limit)


def _scored_languages(args: FinetuningArguments) -> list[Language]:
    """Return the languages of the model that have what the protocol needs of every language."""
    known = list(list_languages(args.model, revision=args.model_revision))
    splits = [args.test_split]
    if args.protocol == "within-language":
        splits.append(args.train_split)

    languages = known
    for split in splits:
        languages = _available(args, split, languages)

    missing = [language for language in known if language not in languages]
    if missing:
        logger.warning(
            "No labels of %s in %s (split %s): not scored.",
            ", ".join(missing),
            args.data,
            " or ".join(splits),
        )

    # With none left, loading says what is missing where.
    return languages or known


def _available(
    args: FinetuningArguments, split: str, languages: Sequence[Language]
) -> list[Language]:
    return available_languages(
        args.data, split, languages, names=args.names, id_prefixes=args.id_prefixes
    )


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

"""The roles of the data that a Trainer is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.language_datasets import is_map_style
from hf_meta_adapters.data.overlap import check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.training._given_data import (
    Datasets,
    by_language,
    check_data_languages,
    check_scored,
    named_sets,
)


def assign_roles(
    languages: Sequence[Language],
    train: Datasets,
    meta: Datasets | None,
    selection: Datasets | None,
    *,
    needs_meta: bool,
    meta_languages: Collection[Language] | None = None,
) -> tuple[Datasets, Datasets | None]:
    """Check the data of all roles; split meta text off the training text where it is missing.

    Args:
        languages: The languages of the model.
        train: The training data.
        meta: The meta data, if the user has some.
        selection: The selection data, if there is any, of one set or of several.
        needs_meta: Whether training takes meta-gradients.
        meta_languages: The languages with meta text, where they are named; else those of `train`.

    Returns:
        Training and meta data.

    Raises:
        LanguageError: If the model does not have a language.
        DataError: If a role is malformed, or roles overlap.
    """
    roles = {"train_dataset": train, "meta_dataset": meta}
    for name, datasets in roles.items():
        if datasets is not None:
            check_data_languages(name, by_language(name, datasets), languages)

    selection = _selection(selection, languages)

    # Meta text that no meta-gradient reads is left out: all rows may then be trained on.
    if not needs_meta:
        check_roles(train, None, selection)
        return train, None

    if meta_languages is None:
        check_roles(train, meta, selection)
        if meta is not None:
            return train, meta

        split = split_roles(train)
        return split.train, split.meta

    return _named_roles(train, meta, selection, meta_languages)


def _selection(given: object, languages: Sequence[Language]) -> Datasets | None:
    """The selection data of each language, of all sets together where there are several."""
    if given is None:
        return None

    several = named_sets(given)
    if several is None:
        return check_scored("eval_dataset", given, languages)

    parts: dict[Language, list[Any]] = {}
    for name, datasets in several.items():
        for language, dataset in check_scored(
            f"eval_dataset[{name!r}]", datasets, languages
        ).items():
            # Streams are not compared with other roles.
            if is_map_style(dataset):
                parts.setdefault(language, []).append(dataset)
    return {language: ConcatDataset(sets) for language, sets in parts.items()}


def _named_roles(
    train: Datasets,
    meta: Datasets | None,
    selection: Datasets | None,
    languages: Collection[Language],
) -> tuple[Datasets, Datasets]:
    """Training and meta data where `meta_languages` names the languages with meta text."""
    given, source = meta, "meta_dataset"
    if meta is None:
        given, source = train, "train_dataset"

    missing = [key for key in languages if key not in (given or {})]
    if missing:
        raise DataError(
            "Every language that `meta_languages` names must have meta text, of its own or split"
            f" off its training text. Found none of {missing} in `{source}`. Add it to"
            " `meta_dataset`, or leave the language out of `meta_languages`."
        )

    if meta is None:
        check_roles(train, None, selection)
        split = split_roles({key: train[key] for key in languages})
        return {**train, **split.train}, split.meta

    idle = [key for key in meta if key not in languages]
    if idle:
        raise DataError(
            "Every language of `meta_dataset` must be one that `meta_languages` names. Found"
            f" {idle} beside {list(languages)}: no step would read these rows. Leave them out, or"
            " name their languages."
        )

    check_roles(train, meta, selection, same_languages=False)
    return train, meta

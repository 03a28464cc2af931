"""The data that a Trainer is given, language by language, and their roles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, cast

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.overlap import check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.errors import DataError, check_known_language

Datasets: TypeAlias = Mapping[Language, Any]
"""language → a dataset, map-style or streaming: anything that torch's DataLoader reads."""


def by_language(name: str, datasets: object) -> Datasets:
    """Return the datasets if they are given by language.

    Args:
        name: The argument, for the message.
        datasets: What was given for it.

    Returns:
        The same.

    Raises:
        DataError: If it is not a mapping.
    """
    if isinstance(datasets, Mapping):
        return cast(Datasets, datasets)

    found, instead = "none", f'Pass for example `{name}={{"en": ..., "sw": ...}}`.'
    if datasets is not None:
        found = f"a `{type(datasets).__name__}`"
        instead += (
            " If a column says the language of each row, use"
            f' `{name}=by_language_column(dataset, "language")`.'
        )

    raise DataError(f"`{name}` must be a dict from language to data. Found {found}. {instead}")


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
        selection: The selection data, if there is any.
        needs_meta: Whether training takes meta-gradients.
        meta_languages: The languages with meta text, where they are named; else those of `train`.

    Returns:
        Training and meta data.

    Raises:
        LanguageError: If the model does not have a language.
        DataError: If a role is malformed, or roles overlap.
    """
    roles = {"train_dataset": train, "meta_dataset": meta, "eval_dataset": selection}
    for name, datasets in roles.items():
        if datasets is not None:
            for language in by_language(name, datasets):
                check_known_language(language, languages)

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

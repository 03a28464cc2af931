"""The data that a Trainer is given, language by language; what is something else is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.errors import DataError, LanguageError, check_language

Datasets: TypeAlias = Mapping[Language, Any]
"""language → a dataset, map-style or streaming: anything that torch's DataLoader reads."""

_SPLITS = frozenset({"train", "validation", "valid", "val", "dev", "test", "eval"})


def by_language(name: str, datasets: object) -> Datasets:
    """Return the datasets if they are given by language.

    Args:
        name: The argument, for the message.
        datasets: What was given for it.

    Returns:
        The same.

    Raises:
        DataError: If it is not a mapping, is empty, or a language has something else than rows.
    """
    if not isinstance(datasets, Mapping) or not datasets:
        found, instead = "none", f'Pass for example `{name}={{"en": ..., "sw": ...}}`.'
        if isinstance(datasets, Mapping):
            found = "an empty one"
        elif datasets is not None:
            found = f"a `{type(datasets).__name__}`"
            instead += (
                " If a column says the language of each row, use"
                f' `{name}=by_language_column(dataset, "language")`.'
            )

        if name == "meta_dataset":
            instead += ' `meta_dataset="train"` takes meta rows from the training rows.'

        raise DataError(f"`{name}` must be a dict from language to data. Found {found}. {instead}")

    for language, dataset in datasets.items():
        _check_rows(name, language, dataset)
    return cast(Datasets, datasets)


def check_data_languages(name: str, datasets: Datasets, languages: Sequence[Language]) -> None:
    """Check that a model has all languages of some data.

    Args:
        name: The argument, for the message.
        datasets: What was given for it, by language.
        languages: The languages of the model.

    Raises:
        DataError: If the data are given by split.
        LanguageError: If the model does not have a language; the message names all of them.
    """
    unknown = [key for key in map(check_language, datasets) if key not in languages]
    if not unknown:
        return

    if _SPLITS.issuperset(datasets):
        first = next(iter(datasets))
        raise DataError(
            f"`{name}` must be a dict from language to data. Found the splits {list(datasets)}."
            f' Pass the data of each language, for example `{name}={{"{languages[0]}":'
            f' data["{first}"]}}`.'
        )

    hints = [_hint(key, languages) for key in unknown]
    raise LanguageError(
        f"Every language of `{name}` must be one of this model: {list(languages)}. Found"
        f" {', '.join(map(repr, unknown))}.{''.join(dict.fromkeys(hints))}"
    )


def check_scored(name: str, datasets: object, languages: Sequence[Language]) -> Datasets:
    """Check data that are to be scored, before the first language is.

    Args:
        name: The argument, for the message.
        datasets: What was given for it.
        languages: The languages of the model.

    Returns:
        language → data.

    Raises:
        DataError: If they are not given by language, or one has no rows.
        LanguageError: If the model does not have a language.
    """
    checked = by_language(name, datasets)
    check_data_languages(name, checked, languages)

    empty = [key for key, dataset in checked.items() if size_of(dataset) == 0]
    if empty:
        raise DataError(
            f"Every language of `{name}` must have rows. Found none of {empty}. Add some, or leave"
            " these languages out."
        )
    return checked


def check_one_language(call: str, dataset: object) -> None:
    """Check that a loader is asked for the data of one language.

    Args:
        call: The method, for the message.
        dataset: What it was called with.

    Raises:
        DataError: If it is nothing, or data by language.
    """
    if dataset is None or isinstance(dataset, Mapping):
        found = "none"
        if isinstance(dataset, Mapping):
            found = f"a `{type(dataset).__name__}` of {list(dataset)}"

        raise DataError(
            f"`{call}` must be given the data of one language: rows of several do not share a"
            f" batch. Found {found}. Make a loader for each language."
        )


def named_sets(datasets: object) -> Mapping[str, Datasets] | None:
    """Data of several sets, such as `{"dev": {"en": ..., "sw": ...}, "test": {...}}`.

    Args:
        datasets: What was given for `eval_dataset`.

    Returns:
        set → language → data; `None` of one set, and of what is no set at all.
    """
    if not isinstance(datasets, Mapping) or not datasets:
        return None
    return datasets if all(_is_by_name(inner) for inner in datasets.values()) else None


def chosen_data(own: object, asked: object) -> object:
    """The data that a call asks for: those that it passes, or those of the Trainer.

    Args:
        own: The data of the Trainer.
        asked: Data; or the key of a language, or the name of a set, of its own; or nothing.

    Returns:
        The data, of one set or of several.

    Raises:
        DataError: If the Trainer has no such data.
    """
    if asked is None:
        return own
    if not isinstance(asked, str):
        return asked

    names = list(own) if isinstance(own, Mapping) else []
    if asked not in names:
        raise DataError(
            "A text for `eval_dataset` must be a language or a set of the Trainer's own data:"
            f" {names}. Found {asked!r}. Pass one of them, or language → data."
        )

    assert isinstance(own, Mapping)
    if named_sets(own) is not None:
        return own[asked]
    return {asked: own[asked]}


def without_sets(datasets: Any) -> Any:
    """The same data under keys of one level: `"dev/sw"` where there are several sets."""
    sets = named_sets(datasets)
    if sets is None:
        return datasets

    flat: dict[str, Any] = {}
    for name, of_set in sets.items():
        flat.update({f"{name}/{key}": dataset for key, dataset in of_set.items()})
    return flat


def _is_by_name(data: object) -> bool:
    """Whether something is a dict of datasets, and neither one of columns nor one of splits."""
    if not isinstance(data, Mapping) or "input_ids" in data:
        return False
    return not _SPLITS.issuperset(data)


def _check_rows(name: str, language: object, dataset: object) -> None:
    found = None
    if isinstance(dataset, str):
        found, instead = f"the text {dataset!r}", "Load the data first, and tokenize it"
    elif isinstance(dataset, Mapping) and _SPLITS.issuperset(dataset):
        found = f"the splits {list(dataset)}"
        instead = f'Pass one of them: `data["{next(iter(dataset), "train")}"]`'
    elif isinstance(dataset, Mapping) and all(isinstance(key, str) for key in dataset):
        found = f"a `{type(dataset).__name__}` of {list(dataset)}"
        instead = "Pass the rows of one language"
        if "input_ids" in dataset:
            instead = "Make rows of the columns: `datasets.Dataset.from_dict(...)`"

    if found is not None:
        raise DataError(f"`{name}[{language!r}]` must be a dataset. Found {found}. {instead}.")


def _hint(key: Language, languages: Iterable[Language]) -> str:
    by_lower = {name.lower(): name for name in languages}
    nearest = difflib.get_close_matches(key.lower(), by_lower, n=1)
    if nearest:
        return f" Did you mean {by_lower[nearest[0]]!r}?"
    return f' Add it: `model.add_language("{key}")`.'

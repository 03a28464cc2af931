"""Labelled data of several languages, from a folder or from the Hub, by one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._local_files import load_local_datasets
from hf_meta_adapters.errors import DataError, check_known_language, check_languages

__all__ = ["load_language_datasets"]


def load_language_datasets(
    source: str | Path,
    split: str,
    *,
    languages: Iterable[Language],
    names: Mapping[Language, str] | None = None,
    id_prefixes: Mapping[Language, str] | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> dict[Language, datasets.Dataset]:
    """Read one split of each language: by `load_local_datasets` from a folder, by `datasets.load_dataset` from the Hub.

    Args:
        source: A folder that holds one folder for each language, or the name of a dataset on the
            Hub.
        split: Name of the split, or of the files without their suffix.
        languages: The languages.
        names: Language → name of its part of the Hub's dataset (its "subset"); by default the
            language itself.
        id_prefixes: Language → beginning of the column `id`, where one part holds all languages, as
            in TyDi QA.
        revision: The branch or commit on the Hub.
        limit: Examples of each language at most, from the beginning.

    Returns:
        Language → dataset.

    Raises:
        DataError: If data is missing, or nothing is left of a language.
        LanguageError: If a key is malformed, or `names` or `id_prefixes` have another one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     (Path(folder) / "sw").mkdir()
        ...     _ = (Path(folder) / "sw" / "test.jsonl").write_text('{"tokens": ["Nairobi"], "tags": ["B-LOC"]}')
        ...     load_language_datasets(folder, "test", languages=["sw"])["sw"][0]
        {'tokens': ['Nairobi'], 'tags': ['B-LOC']}
    """
    keys = check_languages(languages)
    if Path(source).is_dir():
        return load_local_datasets(source, split, languages=keys, limit=limit)
    prefixes, parts = id_prefixes or {}, names or {}
    found = {}
    for key in keys:
        prefix = prefixes.get(key)
        for given in (prefixes, parts):
            if given:
                check_known_language(key, given, what="those that the dataset is said to have")
        rows = datasets.load_dataset(
            str(source), parts.get(key, key), split=split, revision=revision
        )
        if prefix is not None:
            rows = rows.select(
                [number for number, name in enumerate(rows["id"]) if name.startswith(prefix)]
            )
        if not len(rows):
            raise DataError(
                f"A language must have examples. Found none of {key!r} in {source}, split"
                f" {split!r}{f', with ids that begin with {prefix!r}' if prefix else ''}. Leave the"
                " language out."
            )
        found[key] = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return found

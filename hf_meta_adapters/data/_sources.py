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
    """Read one split of each language, from a folder or from a dataset on the Hub.

    A folder is read by `load_local_datasets`, a dataset on the Hub by `datasets.load_dataset`.

    Args:
        source: A folder that holds one folder for each language, or the name of a dataset on the
            Hub.
        split: Name of the split, or of the files without their suffix.
        languages: The languages.
        names: Language → name of its configuration (its "subset") of the dataset on the Hub; by
            default the language itself.
        id_prefixes: Language → beginning of the column `id`, where one configuration holds all
            languages, as in TyDi QA.
        revision: The branch or commit on the Hub.
        limit: Examples of each language at most, from the beginning.

    Returns:
        Language → dataset.

    Raises:
        DataError: If data is missing, or nothing is left of a language.
        LanguageError: If a key is malformed, or missing from `names` or `id_prefixes`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     (Path(folder) / "sw").mkdir()
        ...     line = '{"tokens": ["Nairobi"], "tags": ["B-LOC"]}'
        ...     _ = (Path(folder) / "sw" / "test.jsonl").write_text(line)
        ...     load_language_datasets(folder, "test", languages=["sw"])["sw"][0]
        {'tokens': ['Nairobi'], 'tags': ['B-LOC']}
    """
    keys = check_languages(languages)
    if Path(source).is_dir():
        return load_local_datasets(source, split, languages=keys, limit=limit)

    names, id_prefixes = names or {}, id_prefixes or {}
    by_language = {}
    for key in keys:
        # Either argument may be left out; one that is given must name every language, since a
        # default for the others would silently read something else.
        if id_prefixes:
            check_known_language(key, id_prefixes, what="`id_prefixes`")
        if names:
            check_known_language(key, names, what="`names`")

        name = names.get(key, key)
        rows = datasets.load_dataset(str(source), name, split=split, revision=revision)
        rows = _with_prefix(rows, id_prefixes.get(key))

        if not len(rows):
            condition = ""
            if id_prefixes.get(key):
                condition = f", with ids that begin with {id_prefixes[key]!r}"

            raise DataError(
                f"A language must have examples. Found none of {key!r} in {source}, split"
                f" {split!r}{condition}. Remove the language."
            )

        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        by_language[key] = rows

    return by_language


def _with_prefix(rows: datasets.Dataset, prefix: str | None) -> datasets.Dataset:
    if prefix is None:
        return rows

    return rows.select([row for row, name in enumerate(rows["id"]) if name.startswith(prefix)])

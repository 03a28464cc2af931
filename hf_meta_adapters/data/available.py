"""Which languages have data, before any of it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._local_files import languages_with

__all__ = ["available_languages"]


def available_languages(
    source: str | Path,
    split: str,
    languages: Iterable[Language],
    *,
    names: Mapping[Language, str] | None = None,
    id_prefixes: Mapping[Language, str] | None = None,
) -> list[Language]:
    """Return those of some languages that have a split, in their order.

    On the Hub, these are the languages that `names` and `id_prefixes` list; where both are left
    out, all of them: which ones there are is found out when they are loaded.

    Args:
        source: A folder or the name of a dataset, as for `load_language_datasets`.
        split: The split.
        languages: The languages.
        names: As for `load_language_datasets`.
        id_prefixes: As there.

    Returns:
        The languages.

    Example:
        >>> available_languages("me/data", "train", ["en", "sw"], names={"sw": "swahili"})
        ['sw']
    """
    if Path(source).is_dir():
        found = languages_with(Path(source), split)
        return [language for language in languages if language in found]

    listed = [known for known in (names, id_prefixes) if known]
    return [language for language in languages if all(language in known for known in listed)]

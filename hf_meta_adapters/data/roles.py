"""The roles of text: train (θ and the virtual step), meta (the outer loss), model selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import Subset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._row_digests import Digests, digest_bytes, first_equal, row_digests
from hf_meta_adapters.data.language_datasets import MapStyleDataset, is_map_style
from hf_meta_adapters.data.seeding import stable_seeds
from hf_meta_adapters.errors import ConfigurationError, DataError, check_languages


@dataclass(frozen=True)
class LanguageRoles:
    """Disjoint parts of the data of each language.

    Args:
        train: For the training loss.
        meta: For the validation loss of the meta-gradient; empty if none was requested.
        selection: For choosing checkpoints and settings; empty if none was requested.
    """

    train: dict[Language, MapStyleDataset]
    meta: dict[Language, MapStyleDataset]
    selection: dict[Language, MapStyleDataset]


def split_roles(
    datasets: Mapping[Language, object],
    *,
    meta: float = 0.1,
    selection: float = 0.0,
    seed: int = 0,
    columns: Sequence[str] | None = None,
) -> LanguageRoles:
    """Split the data of each language into train, meta and selection, by hashes of its rows.

    Equal rows get the same role, so that no text is both trained and validated on. Among the
    distinct rows of a language the shares are exact up to rounding, and at least one row. Rows of
    different languages are not compared: split text that is aligned across languages (a verse and
    its translation) by its ids instead.

    Args:
        datasets: A map-style dataset of each language: `datasets.Dataset`, a torch dataset, or a
            list.
        meta: The share of meta rows; 0 for none.
        selection: The share of selection rows; 0 for none.
        seed: Another seed gives another split.
        columns: The columns in which rows must be equal to be kept together, such as `["context"]`
            for questions about the same passage; `None` for `input_ids` if rows have them, else
            all.

    Returns:
        The parts, each in the order of the rows.

    Raises:
        ConfigurationError: If the shares leave nothing to train on.
        DataError: If a dataset is streaming, or has too few distinct rows for its roles.

    Example:
        >>> roles = split_roles({"sw": [f"mstari wa {number}" for number in range(100)]}, meta=0.2)
        >>> len(roles.train["sw"]), len(roles.meta["sw"])
        (80, 20)
    """
    shares = {"meta": meta, "selection": selection}
    if not all(0 <= share < 1 for share in shares.values()) or meta + selection >= 1:
        raise ConfigurationError(
            "The shares of meta and selection text must be at least 0 and leave some to train on."
            f" Found meta={meta}, selection={selection}. Use for example meta=0.1, selection=0.05."
        )
    shares = {role: share for role, share in shares.items() if share}

    parts: dict[str, dict[Language, MapStyleDataset]] = {"train": {}, "meta": {}, "selection": {}}
    for language in check_languages(datasets):
        dataset = datasets[language]
        if not is_map_style(dataset):
            raise DataError(
                "Only data with a length can be split into roles. Found a streaming dataset for"
                f" {language!r}. Pass the meta text separately, as `meta_dataset`."
            )

        digests = row_digests(dataset, language, columns)
        for role, rows in _assign_rows(digests, language, shares, seed).items():
            parts[role][language] = _select(dataset, rows)

    return LanguageRoles(**parts)


def _assign_rows(
    digests: Digests, language: Language, shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return row numbers by role: distinct rows, ordered by a keyed hash, are cut at the shares."""
    first = first_equal(digests)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    counts = {role: max(1, round(share * len(distinct))) for role, share in shares.items()}
    if len(distinct) <= sum(counts.values()):
        raise DataError(
            f"The data of {language!r} must be enough for {len(shares) + 1} roles. Found"
            f" {len(distinct)} distinct rows for the shares {dict(shares)}. Add data, change the"
            " shares, or remove the language."
        )

    # A hash, not a shuffle: rows that are added or moved do not reorder the others.
    texts = (one.hex() for one in digest_bytes(digests[distinct]))
    ordered = distinct[np.argsort(stable_seeds(seed, texts))]

    # Distinct rows are cut, not rows: copies of a text go where the text goes.
    role_of = np.zeros(len(first), np.int8)
    names = ["train", *counts]
    start = 0
    for number, role in enumerate(names[1:], start=1):
        role_of[ordered[start : start + counts[role]]] = number
        start += counts[role]

    # In the order of the data, whatever that of the hashes.
    role_of = role_of[first]
    return {role: np.flatnonzero(role_of == number) for number, role in enumerate(names)}


def _select(dataset: MapStyleDataset, rows: NDArray[np.int64]) -> MapStyleDataset:
    # `datasets.Dataset.select` keeps features and stays a `Dataset`; others are only wrapped.
    if isinstance(dataset, Dataset):
        # As an array: of a list, `datasets` would make many further objects.
        return dataset.select(rows)
    if hasattr(dataset, "select"):
        return dataset.select(rows.tolist())

    return Subset(dataset, rows.tolist())  # type: ignore[arg-type]  # torch asks for `len` and `[]`

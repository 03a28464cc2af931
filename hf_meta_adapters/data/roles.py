"""The three roles of text: train (θ and the virtual step), meta (the outer loss), selection (choosing a model)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Subset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._digest import digests
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.data.seeding import stable_seed
from hf_meta_adapters.errors import ConfigurationError, DataError, check_languages


@dataclass(frozen=True)
class LanguageRoles:
    """Disjoint parts of the data of each language.

    Args:
        train: For the training loss.
        meta: For the validation loss of the meta-gradient; empty if none was asked for.
        selection: For choosing checkpoints and settings; empty if none was asked for.
    """

    train: dict[Language, Any]
    meta: dict[Language, Any]
    selection: dict[Language, Any]


def split_roles(
    datasets: Mapping[Language, Any],
    *,
    meta: float = 0.1,
    selection: float = 0.0,
    seed: int = 0,
    columns: Sequence[str] | None = None,
) -> LanguageRoles:
    """Split the data of each language into train, meta and selection, by a keyed hash of the content of each row.

    Equal rows get the same role, so that no text is trained and validated on. Among the distinct
    rows of a language the shares are exact up to rounding, and at least one row. Rows of different
    languages are not compared: text that is aligned over languages (a verse and its translation)
    has to be split by its ids.

    Args:
        datasets: A map-style dataset of each language: `datasets.Dataset`, a torch dataset, or a
            list.
        meta: The share of meta rows; 0 for none.
        selection: The share of selection rows; 0 for none.
        seed: Another seed splits otherwise.
        columns: The columns in which rows must be equal to be kept together, such as `["context"]`
            for questions about the same passage; `None` for `input_ids` if there are such, else
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
            f" Found meta={meta}, selection={selection}. Write for example meta=0.1,"
            " selection=0.05."
        )
    wanted = {role: share for role, share in shares.items() if share}
    parts: dict[str, dict[Language, Any]] = {"train": {}, "meta": {}, "selection": {}}
    for language in check_languages(datasets):
        dataset = datasets[language]
        if size_of(dataset) is None:
            raise DataError(
                "Only data with a length can be split into roles. Found a streaming dataset for"
                f" {language!r}. Give the meta text yourself, as `meta_dataset`."
            )
        marks = list(digests(dataset, language, columns))
        for role, rows in _rows(marks, language, wanted, seed).items():
            parts[role][language] = (
                dataset.select(rows) if hasattr(dataset, "select") else Subset(dataset, rows)
            )
    return LanguageRoles(**parts)


def _rows(
    marks: list[bytes], language: Language, wanted: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Row numbers by role: distinct contents are put in the order of a keyed hash and cut at the shares."""
    distinct = sorted(set(marks), key=lambda mark: stable_seed(seed, mark.hex()))
    counts = {role: max(1, round(share * len(distinct))) for role, share in wanted.items()}
    if len(distinct) <= sum(counts.values()):
        raise DataError(
            f"The data of {language!r} must be enough for {len(wanted) + 1} roles. Found"
            f" {len(distinct)} distinct rows for the shares {dict(wanted)}. Add data, change the"
            " shares, or leave the language out."
        )
    roles = [role for role, count in counts.items() for _ in range(count)]
    role_of = dict(zip(distinct, roles + ["train"] * (len(distinct) - len(roles)), strict=True))
    found: dict[str, list[int]] = {"train": [], **{role: [] for role in wanted}}
    for row, mark in enumerate(marks):
        found[role_of[mark]].append(row)
    return found

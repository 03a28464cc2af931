"""The three roles of text: train (θ and the virtual step), meta (the outer loss), selection (choosing a model)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Subset
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._dataset import size_of
from hf_meta_adapters.data._digest import digest
from hf_meta_adapters.data._streams import stable_seed
from hf_meta_adapters.errors import ConfigurationError, DataError

_LONG = 100_000  # rows above which hashing shows a progress bar


@dataclass(frozen=True)
class LanguageRoles:
    """Disjoint parts of the data of each language.

    Args:
        train: For the training loss.
        meta: For the validation loss of the meta-gradient.
        selection: For choosing checkpoints and settings; empty if none was asked for.
    """

    train: dict[Language, Any]
    meta: dict[Language, Any]
    selection: dict[Language, Any]


def split_roles(
    datasets: Mapping[Language, Any], *, meta: float = 0.1, selection: float = 0.0, seed: int = 0
) -> LanguageRoles:
    """Split the data of each language into train, meta and selection, by a hash of the content of each row.

    Equal rows get the same role, so that no text is trained and validated on. Among the distinct rows of a language
    the shares are exact up to one row.

    Args:
        datasets: A map-style data set of each language: `datasets.Dataset`, a torch data set, or a list.
        meta: The share of meta rows.
        selection: The share of selection rows.
        seed: Another seed splits otherwise.

    Returns:
        The parts.

    Raises:
        ConfigurationError: If the shares leave nothing to train on.
        DataError: If a data set is streaming, or has too few distinct rows for its roles.

    Example:
        >>> roles = split_roles({"sw": [f"mstari wa {number}" for number in range(100)]}, meta=0.2)
        >>> len(roles.train["sw"]), len(roles.meta["sw"])
        (80, 20)
    """
    if not (0 < meta < 1 and 0 <= selection < 1 and meta + selection < 1):
        raise ConfigurationError(
            f"The shares of meta and selection text must leave some to train on. Found meta={meta}, "
            f"selection={selection}. Write for example meta=0.1, selection=0.05."
        )
    parts: dict[str, dict[Language, Any]] = {"train": {}, "meta": {}, "selection": {}}
    for language, dataset in datasets.items():
        if size_of(dataset) is None:
            raise DataError(
                f"Only data with a length can be split into roles. Found a streaming data set for {language!r}. Give the "
                "meta text yourself, as `meta_dataset`."
            )
        for role, rows in _rows(dataset, language, meta, selection, seed).items():
            parts[role][language] = _select(dataset, rows)
    return LanguageRoles(**{**parts, "selection": parts["selection"] if selection else {}})


def check_roles(
    train: Mapping[Language, Any], meta: Mapping[Language, Any] | None, selection: Mapping[Language, Any] | None = None
) -> None:
    """Check that the roles have the same languages, that none is empty, and that no row has two roles.

    Streaming data cannot be compared without reading it, and is not.

    Args:
        train: Training data of each language.
        meta: Meta data of each language; `None` if there is none.
        selection: Selection data; may be of some languages only.

    Raises:
        DataError: If a language is missing or empty, or rows overlap; the message counts them and names a pair.
    """
    roles = {"train": train, "meta": meta or {}, "selection": selection or {}}
    if meta is not None:
        for here, there in (("train", "meta"), ("meta", "train")):
            missing = [key for key in roles[here] if key not in roles[there]]
            if missing:
                raise DataError(
                    f"Train and meta data must be of the same languages. Found {missing} in {here} alone. Add the {there} "
                    f"data of {missing}, leave the language out, or give no meta data to have it split off."
                )
    for role, several in roles.items():
        for language, dataset in several.items():
            if size_of(dataset) == 0:
                raise DataError(f"The {role} data of {language!r} must hold examples. Found none. Leave the language out.")
    for language in train:
        _check_overlap({role: several[language] for role, several in roles.items() if language in several}, language)


def _check_overlap(roles: Mapping[str, Any], language: Language) -> None:
    first: dict[bytes, tuple[str, int]] = {}
    for role, dataset in roles.items():
        if size_of(dataset) is None:
            continue
        own: dict[bytes, tuple[str, int]] = {}
        twice = []
        for row, mark in enumerate(_digests(dataset, f"{role} {language}")):
            if mark in first:
                twice.append((first[mark], row))
            own.setdefault(mark, (role, row))
        if twice:
            (other, there), here = twice[0]
            raise DataError(
                f"Text must have one role only. Found {len(twice)} rows of the {role} data of {language!r} in other "
                f"roles too, the first in row {here} of {role} and row {there} of {other}. Remove them, or give one "
                "data set and let `split_roles` split it."
            )
        first.update(own)


def _rows(dataset: Any, language: Language, meta: float, selection: float, seed: int) -> dict[str, list[int]]:
    """Row numbers by role: distinct contents are put in the order of a keyed hash and cut at the shares."""
    marks = list(_digests(dataset, language))
    distinct = sorted(set(marks), key=lambda mark: stable_seed(seed, mark.hex()))
    counts = {"meta": round(meta * len(distinct)), "selection": round(selection * len(distinct))}
    wanted = [role for role, share in (("meta", meta), ("selection", selection)) if share]
    if any(counts[role] < 1 for role in wanted) or len(distinct) <= sum(counts.values()):
        raise DataError(
            f"The data of {language!r} must be enough for {len(wanted) + 1} roles. Found {len(distinct)} distinct rows "
            f"for shares meta={meta}, selection={selection}. Add data, raise the shares, or leave the language out."
        )
    cut = counts["meta"], counts["meta"] + counts["selection"]
    role = {mark: "meta" if k < cut[0] else "selection" if k < cut[1] else "train" for k, mark in enumerate(distinct)}
    found: dict[str, list[int]] = {"train": [], "meta": [], "selection": []}
    for row, mark in enumerate(marks):
        found[role[mark]].append(row)
    return found


def _digests(dataset: Any, name: str) -> Any:
    size = size_of(dataset) or 0
    return (digest(dataset[row]) for row in tqdm(range(size), desc=f"hashing {name}", disable=size < _LONG))


def _select(dataset: Any, rows: list[int]) -> Any:
    """A part of a data set, in its own type where it can select rows."""
    return dataset.select(rows) if hasattr(dataset, "select") else Subset(dataset, rows)

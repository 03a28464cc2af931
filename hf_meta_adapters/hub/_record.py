"""What is recorded of a run when a family is saved: only what was measured, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from hf_meta_adapters._typing import Details
from hf_meta_adapters.diagnostics import ConflictMatrix

COSINES = "gradient_cosine.png"
"""The picture of the cosines between the gradients of the languages."""


@runtime_checkable
class _Result(Protocol):
    """A frozen result of this package."""

    def to_dict(self) -> Mapping[str, object]:
        """Everything in it, ready for JSON."""


def json_details(details: Details) -> dict[str, object]:
    """The details in which every result is replaced by its `to_dict()`, at any depth."""
    return {key: _as_json(value) for key, value in details.items()}


def draw_conflict(folder: Path, details: Details) -> dict[str, str]:
    """Draw the `ConflictMatrix` among the details into a folder, if matplotlib is installed.

    Returns:
        What to record of the picture; nothing where none was drawn.
    """
    conflict = details.get("gradient_conflict")
    if not isinstance(conflict, ConflictMatrix) or find_spec("matplotlib") is None:
        return {}

    conflict.plot(folder / COSINES)
    return {"gradient_cosine_picture": COSINES}


def merge_details(before: Details, added: Details) -> dict[str, object]:
    """The details of a family to which languages were added: theirs join those of the others.

    Args:
        before: What was recorded of the family; it wins where both have an entry.
        added: What was recorded of the new languages.
    """
    merged = {**added, **before}

    # By language, or by baseline: the entries of both are kept.
    for name in ("data", "baselines"):
        old, new = before.get(name), added.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            merged[name] = {**old, **new}

    # Each entry is of one task; two of the same task cover different languages.
    if "scores" in before and "scores" in added:
        merged["scores"] = [*as_list(before["scores"]), *as_list(added["scores"])]

    return merged


def as_list(value: object) -> list[object]:
    """One entry or several, as a list; `None` is no entry."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def _as_json(value: object) -> object:
    if isinstance(value, _Result):
        return _as_json(value.to_dict())
    if isinstance(value, Mapping):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return value

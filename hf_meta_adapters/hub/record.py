"""What is recorded of a run when a family is saved: only what was measured, as JSON."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from hf_meta_adapters._typing import Details, JsonObject, Language
from hf_meta_adapters.diagnostics import ConflictMatrix
from hf_meta_adapters.errors import ConfigurationError

COSINES = "gradient_cosine.png"
"""The picture of the cosines between the gradients of the languages."""

DETAILS = (
    "scores",
    "baselines",
    "gradient_conflict",
    "data",
    "datasets",
    "training",
    "train_runtime",
    "co2_eq_emissions",
    "base_model",
    "license",
    "notes",
)
"""What can be recorded of a model, by keyword."""

MERGED = "merged_from"
"""What `merge_families` records beside them."""

_OF_THE_TRAINER = ("fallbacks",)

_OPTIONS = ("max_shard_size", "other_languages", "processing_class", "commit_message", "private")
"""The options that are most easily misspelt."""


@runtime_checkable
class _Result(Protocol):
    """A frozen result of this package."""

    def to_dict(self) -> Mapping[str, object]:
        """Everything in it, ready for JSON."""


def check_details(details: Details) -> None:
    """Refuse an entry that nothing reads, such as an option of transformers or a misspelt name.

    Args:
        details: What was passed by keyword, besides the options.

    Raises:
        ConfigurationError: If there are any. It names them all, with the nearest names.
    """
    unknown = [name for name in details if name not in (*DETAILS, *_OF_THE_TRAINER)]
    if not unknown:
        return

    found = []
    for name in unknown:
        nearest = difflib.get_close_matches(name, (*DETAILS, *_OPTIONS), n=1)
        hint = f" (did you mean `{nearest[0]}`?)" if nearest else ""
        found.append(f"`{name}`{hint}")

    raise ConfigurationError(
        f"A saved or pushed model takes the keywords {', '.join(DETAILS)}, besides the options of"
        f" the method. Found {', '.join(found)}. Correct or leave out these; weights are always"
        " saved as safetensors, and what else should be recorded goes into `notes={...}`."
    )


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


def details_of(details: Details, languages: Collection[Language]) -> dict[str, object]:
    """The details of a family as far as they are of θ, or of some of its languages.

    Args:
        details: What was recorded.
        languages: The languages that still are what they were then.
    """
    kept = {key: value for key, value in details.items() if not key.startswith("gradient_")}

    tables = [_rows_of(table, languages) for table in as_list(kept.pop("scores", None))]
    tables = [table for table in tables if table.get("scores")]
    if tables:
        kept["scores"] = tables

    data = kept.get("data")
    if isinstance(data, Mapping):
        kept["data"] = {key: rows for key, rows in data.items() if key in languages}
    return kept


def with_scores(details: Details, added: Sequence[JsonObject]) -> dict[str, object]:
    """The details of a family with further scores.

    Args:
        details: What was recorded.
        added: Tables of scores. They replace those of the same task and metric, as far as they are
            of the same languages.
    """
    tables = as_list(details.get("scores"))
    for new in added:
        tables = [_left_of(table, new) for table in tables]

    kept = [table for table in tables if not isinstance(table, Mapping) or table.get("scores")]
    return {**details, "scores": [*kept, *added]}


def _left_of(table: object, new: JsonObject) -> object:
    """What stays of a table of scores when some of its languages are scored again."""
    scored = new["scores"]
    if not isinstance(table, Mapping) or not isinstance(table.get("scores"), Mapping):
        return table
    if any(table.get(name) != new[name] for name in ("task", "metric")):
        return table

    others = [
        key for key in table["scores"] if not isinstance(scored, Mapping) or key not in scored
    ]
    if len(others) == len(table["scores"]):
        return table
    return _rows_of(table, others)


def _rows_of(table: object, languages: Collection[Language]) -> dict[str, object]:
    """A table of scores without the rows of other languages, and without their mean."""
    if not isinstance(table, Mapping) or not isinstance(table.get("scores"), Mapping):
        return {}

    rows = {key: row for key, row in table["scores"].items() if key in languages}
    return {**{key: value for key, value in table.items() if key != "mean"}, "scores": rows}


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

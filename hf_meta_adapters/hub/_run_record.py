"""What was recorded of a run, as the manifest and the model card have it: only what was measured, and nothing else.

The details of a manifest may come from somebody else's repository, so that each is looked at before
it is believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.hub.manifest import Family

COSINES = "gradient_cosine.png"
"""The picture of the cosines between the gradients of the languages."""


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one task.

    Args:
        task: The name of the task.
        metric: The metric that stands for it.
        values: Language → value.
        dataset: What they were measured on; "" if that is not known.
        source_language: The language whose labels the model was trained on, for zero-shot scores.
    """

    task: str
    metric: str
    values: Mapping[Language, float]
    dataset: str = ""
    source_language: str | None = None


def as_record(value: Any) -> Any:
    """Results as JSON: what has `to_dict()` becomes that dictionary, inside of lists and dictionaries, too."""
    if hasattr(value, "to_dict"):
        return as_record(value.to_dict())
    if isinstance(value, Mapping):
        return {key: as_record(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_record(one) for one in value]
    return value


def draw(folder: Path, details: Mapping[str, Any]) -> dict[str, str]:
    """Draw the `ConflictMatrix` among the details into a folder, where matplotlib is installed, and record that."""
    conflict = details.get("gradient_conflict")
    (folder / COSINES).unlink(missing_ok=True)
    if conflict is None or not hasattr(conflict, "plot") or find_spec("matplotlib") is None:
        return {}
    conflict.plot(folder / COSINES)
    return {"gradient_cosine_picture": COSINES}


def merge_details(before: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a family to which languages were added: theirs is put beside that of the others."""
    merged = {**added, **before}
    for name in ("data", "baselines"):
        if isinstance(before.get(name), dict) and isinstance(added.get(name), dict):
            merged[name] = {**before[name], **added[name]}
    if "scores" in before and "scores" in added:
        merged["scores"] = [*_listed(before["scores"]), *_listed(added["scores"])]
    return merged


def own_scores(family: Family) -> list[Scores]:
    """The scores of the model itself."""
    return [
        one
        for entry in _listed(family.details.get("scores"))
        if (one := _scores(entry, family.languages))
    ]


def baseline_scores(family: Family) -> list[tuple[str, Scores]]:
    """The scores of other models that it was compared with, each with the name of the model."""
    found = family.details.get("baselines")
    entries = found.items() if isinstance(found, Mapping) else ()
    return [
        (str(name), one)
        for name, several in entries
        for entry in _listed(several)
        if (one := _scores(entry, family.languages))
    ]


def settings(family: Family) -> Iterator[tuple[str, str]]:
    """The settings of the training run that were recorded, in their order."""
    training = family.details.get("training")
    for name, value in training.items() if isinstance(training, Mapping) else ():
        if value is not None and isinstance(value, (str, int, float, bool)):
            yield str(name), str(value)


def data_rows(family: Family) -> list[tuple[Language, str, str]]:
    """Of each language how many rows of text it was trained on, and how many of meta text; "" if it is not known."""
    data = family.details.get("data")
    found = []
    for key in family.languages:
        own = data.get(key) if isinstance(data, Mapping) else None
        if isinstance(own, Mapping):
            found.append((key, _count(own.get("train")), _count(own.get("meta"))))
    return found


def number(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    is_number = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )
    return float(value) if is_number else None  # type: ignore[arg-type]


def _scores(entry: object, languages: Sequence[Language]) -> Scores | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("scores"), Mapping):
        return None
    task, metric, dataset = entry.get("task"), entry.get("metric"), entry.get("dataset")
    values = {
        key: value
        for key in languages
        if isinstance(own := entry["scores"].get(key), Mapping)
        and (value := number(own.get(metric))) is not None
    }
    if not (isinstance(task, str) and isinstance(metric, str) and values):
        return None
    source = entry.get("source_language")
    return Scores(
        task,
        metric,
        values,
        dataset if isinstance(dataset, str) else "",
        source if source else None,
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]

"""Whether a checkpoint is one of the run that wants to go on: what was recorded against what is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._collator_settings import PROBE
from hf_meta_adapters.training._resumed_arguments import allowed_changes, refused_changes

Settings: TypeAlias = Mapping[str, Any]
"""name → value, JSON; the names of sections lead to further settings."""

_SECTIONS = ("arguments", "data", "batches", "model", "libraries")
"""What earlier versions did not record, and what is compared in a way of its own."""

_OF_ITS_OWN = ("run", "rates")
_PLANNED = "length of the run"
_DIGESTS = ("content of", "weights of")
"""How the names of digests begin; such a digest is `None` where it could not be computed."""

_SHOWN = 8


def check_same_run(checkpoint: Path | str, saved: Settings, current: Settings) -> None:
    """Check that what a checkpoint recorded holds for this run as well.

    Args:
        checkpoint: The checkpoint, for the message.
        saved: Recorded name → value.
        current: The same of this run.

    Raises:
        CheckpointError: Naming the differences.
    """
    _refuse(checkpoint, _differences(saved, current))


def check_settings(
    checkpoint: Path,
    saved: Settings,
    current: Settings,
    read_again: Callable[[], Mapping[str, str | None]],
) -> None:
    """Check the settings of a run, and warn of those that differ and may.

    Args:
        checkpoint: The checkpoint, for messages.
        saved: What it recorded; what an earlier version did not record is not compared.
        current: The settings of this run.
        read_again: Computes the fingerprints of the data once more.

    Raises:
        CheckpointError: Naming the differences.
    """
    before, now = _sections(saved), _sections(current)
    arguments = [section["arguments"] for section in (before, now)]
    differences = []
    for name in refused_changes(*arguments):
        differences.append(_difference(name, *(each[name] for each in arguments)))

    # Not an argument twice; and a plan that is there or not is told by `sampling`.
    others = {*_SECTIONS, *_OF_ITS_OWN, *set(arguments[0]).intersection(arguments[1])}
    if "sampling" in others and not (_PLANNED in saved and _PLANNED in current):
        others.add(_PLANNED)
    differences += _differences(_without(saved, others), _without(current, others))

    # Another class of model has no setting in common, and is refused where weights are read.
    class_before, class_now = (each["model"].get("base class") for each in (before, now))
    if class_before != class_now:
        before["model"] = {}

    # A batch differs with its rows as well, and another version may draw other masks.
    rows_alone = _without(before["data"], {PROBE})
    causes = [(rows_alone, now["data"])]
    causes += [(before[section], now[section]) for section in ("batches", "libraries")]
    if any(_changed(*each) for each in causes):
        before["data"] = rows_alone

    volatile = _volatile(before["data"], now["data"], read_again)
    for section in ("data", "batches", "model"):
        for name in _changed(before[section], now[section]):
            if name not in volatile:
                old, new = before[section][name], now[section][name]
                differences.append(_difference(name, old, new))
    _refuse(checkpoint, differences)

    _warn(checkpoint, saved, before, now, volatile)


def _warn(
    checkpoint: Path,
    saved: Settings,
    before: Mapping[str, Settings],
    now: Mapping[str, Settings],
    volatile: list[str],
) -> None:
    """Say what is not as it was, and what could not be compared."""
    words = []

    changes = []
    for name in allowed_changes(before["arguments"], now["arguments"]):
        changes.append(_difference(name, before["arguments"][name], now["arguments"][name]))
    if changes:
        words.append(f"From here on, these hold: {'; '.join(changes)}.")

    versions = []
    for name in _changed(before["libraries"], now["libraries"]):
        old, new = before["libraries"][name], now["libraries"][name]
        versions.append(_difference(name, old, new))
    if versions:
        words.append(f"Another version may round in another way: {'; '.join(versions)}.")

    uncompared = volatile + [
        name
        for name, value in before["data"].items()
        if name in now["data"] and None in (value, now["data"][name])
    ]
    if uncompared:
        words.append(
            "Rows that differ each time they are read, or that hold something without a value to"
            f" compare, were not compared: {', '.join(uncompared)}."
        )

    missing = [section for section in _SECTIONS[1:] if section not in saved]
    if missing:
        words.append(
            "An earlier version wrote it, which did not record data, model and collator: make sure"
            " that they are the same."
        )

    if words:
        warnings.warn(f"The run resumes from {checkpoint}. {' '.join(words)}", stacklevel=6)


def _volatile(
    before: Settings, now: Settings, read_again: Callable[[], Mapping[str, str | None]]
) -> list[str]:
    """The data that seem to differ, but have another fingerprint each time they are read."""
    changed = _changed(before, now)
    if not changed:
        return []

    again = read_again()
    return [name for name in changed if again.get(name) != now[name]]


def _differences(saved: Settings, current: Settings) -> list[str]:
    """What differs; what an earlier version did not know, and so did not record, is `None`."""
    differences = []
    for name in sorted({*saved, *current}):
        if saved.get(name) != current.get(name):
            differences.append(_difference(name, saved.get(name), current.get(name)))
    return differences


def _changed(before: Settings, now: Settings) -> list[str]:
    """The names in both that have different values; a digest that is unknown has none."""
    both = [name for name in before if name in now]
    changed = []
    for name in both:
        is_unknown = name.startswith(_DIGESTS) and None in (before[name], now[name])
        if before[name] != now[name] and not is_unknown:
            changed.append(name)
    return changed


def _sections(settings: Settings) -> dict[str, Settings]:
    return {name: settings.get(name) or {} for name in _SECTIONS}


def _without(settings: Settings, names: set[str]) -> Settings:
    return {name: value for name, value in settings.items() if name not in names}


def _difference(name: str, before: object, now: object) -> str:
    return f"`{name}` was {before!r} and is {now!r}"


def _refuse(checkpoint: Path | str, differences: list[str]) -> None:
    if not differences:
        return

    shown = "; ".join(differences[:_SHOWN])
    if len(differences) > _SHOWN:
        shown += f"; and {len(differences) - _SHOWN} more"
    raise CheckpointError(
        f"A resumed run must be the run that was interrupted. Found differences from {checkpoint}:"
        f" {shown}. Restore the old values, or start a new run from its weights:"
        " `model.load_weights(...)`."
    )

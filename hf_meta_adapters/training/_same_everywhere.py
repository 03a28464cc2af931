"""What must be the same on all processes of a run is compared, and differences are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._described import digest_of

T = TypeVar("T")

_NAMED = 6
_RANKS = 8
_LENGTH = 160

CALL = "the call"
"""The entry that says what a process is about to do; where it differs, nothing else counts."""


def check_same(record: Mapping[str, str]) -> None:
    """Check that all processes have the same record. All processes call it together.

    In the good case one message of a few bytes is exchanged. Only processes that disagree send each
    other their records, to say what differs.

    Args:
        record: What to compare: its name in messages → its description.

    Raises:
        ConfigurationError: If a record differs; with the same text on all processes.
    """
    text = json.dumps(dict(record), sort_keys=True)
    own = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    if len(set(gathered(own))) == 1:
        return

    records = gathered(dict(record))
    names: dict[str, None] = {}
    for one in records:
        names.update(dict.fromkeys(one))
    if len({one.get(CALL) for one in records}) > 1:
        names = {CALL: None}

    differences = []
    for name in names:
        values = [one.get(name, "absent") for one in records]
        if len(set(values)) > 1:
            differences.append(_difference(name, values))

    found = "; ".join(differences[:_NAMED])
    if len(differences) > _NAMED:
        found += f"; and {len(differences) - _NAMED} more"

    raise ConfigurationError(
        "All processes of a run must make the same calls, with the same model, data and arguments."
        f" Found differences: {found}. Start the same script with the same arguments on every"
        " process, load the data with one seed, and sort what comes from a set or a folder."
    )


def gathered(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks. All processes call it together."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def on_processes(ranks: Sequence[int]) -> str:
    """Processes as they are named in a message."""
    listed = ", ".join(str(rank) for rank in ranks[:_RANKS])
    if len(ranks) > _RANKS:
        listed += f" and {len(ranks) - _RANKS} more"

    word = "process" if len(ranks) == 1 else "processes"
    return f"{word} {listed}"


def _difference(name: str, values: Sequence[str]) -> str:
    """Which processes have which value."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)

    parts = []
    for value, holders in ranks.items():
        parts.append(f"{_shortened(value)} on {on_processes(holders)}")
    return f"{name} is {', '.join(parts[:_RANKS])}"


def _shortened(value: str) -> str:
    if len(value) <= _LENGTH:
        return value
    # The beginnings may be equal, so something must show that the rest is not.
    return f"{value[:_LENGTH]}… ({digest_of(value)})"

"""The logged values of the meta-gradient that a study keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["training_meter"]

METER = (
    "meta_direct_norm",
    "meta_indirect_norm",
    "meta_indirect_ratio",
    "meta_cosine",
    "meta_fidelity",
)


def training_meter(logs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the values of the meta-gradient's meter over training.

    Args:
        logs: What the Trainer logged.

    Returns:
        Name → values; none for a method without a meta-gradient.
    """
    meter: dict[str, list[float]] = {}
    for name in METER:
        # Methods without a meta-gradient log none of these.
        values = [log[name] for log in logs if name in log]
        if values:
            meter[name] = values

    return meter

"""The devices that tests run on: "cuda" where there is one, "cpu" everywhere, so that a test that
nobody has run on a GPU yet is known to work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ON_DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])

Nested = dict[str, Any]


def on(device: str, batch: Mapping[str, Any]) -> Nested:
    """A batch, or batches by language, on a device."""
    return {
        name: on(device, value) if isinstance(value, Mapping) else value.to(device)
        for name, value in batch.items()
    }


def flat(gradients: Mapping[str, Any]) -> Tensor:
    """Gradients by name, or by language and name, as one vector on the CPU."""
    parts = []
    for name in sorted(gradients):
        entry = gradients[name]
        parts.append(flat(entry) if isinstance(entry, Mapping) else entry.detach().cpu().flatten())
    return torch.cat([part.double() for part in parts])


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@contextmanager
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A context in which the same passes give the same bits on a GPU, too."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def waits(device: str, work: Callable[[], object]) -> list[str]:
    """Where the host waits for a GPU during some work; nowhere on a CPU."""
    if device == "cpu":
        work()
        return []

    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing" in str(one.message)]
    return [f"{one.filename}:{one.lineno}" for one in found]

"""A copy of φ, and of what the optimizer knows of it, to go back to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Undo:
    """Remembers parameters and their optimizer state, to put both back bit for bit.

    Args:
        parameters: The parameters.
        optimizer: Their optimizer, or what Accelerate made of it.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizer: Any) -> None:
        self._state = getattr(optimizer, "optimizer", optimizer).state
        self._copies = [
            (own, own.detach().clone(), _copied(self._state.get(own, {}))) for own in parameters
        ]

    @torch.no_grad()
    def __call__(self) -> None:
        """Put them back."""
        for own, value, state in self._copies:
            own.copy_(value)
            if state:
                self._state[own] = state
            else:  # it had not taken a step
                self._state.pop(own, None)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: entry.clone() if isinstance(entry, Tensor) else entry for name, entry in state.items()
    }

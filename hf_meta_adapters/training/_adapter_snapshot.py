"""A copy of φ and of its optimizer state, to return to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class AdapterSnapshot:
    """Remembers parameters and their optimizer state, and restores both bit for bit.

    Args:
        parameters: The parameters.
        optimizer: Their optimizer.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> None:
        self._state = optimizer.state
        self._copies = [
            (parameter, parameter.detach().clone(), _copied(self._state.get(parameter, {})))
            for parameter in parameters
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put parameters and optimizer state back."""
        for parameter, value, state in self._copies:
            parameter.copy_(value)

            # A parameter that had not taken a step has no entry at all, not an empty one.
            if state:
                self._state[parameter] = state
            else:
                self._state.pop(parameter, None)


def _copied(state: Mapping[str, object]) -> dict[str, object]:
    """The optimizer state of one parameter; numbers need no copy."""
    # Shallow copies would share the moments, which optimizers update in place.
    copies = dict(state)
    for name, entry in state.items():
        if isinstance(entry, Tensor):
            copies[name] = entry.clone()

    return copies

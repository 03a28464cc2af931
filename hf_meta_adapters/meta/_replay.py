"""Losses that can be evaluated several times with the same random numbers.

Every estimator evaluates the training loss of a language more than once, and all of these passes
have to be values of *one* function of the parameters: with new dropout masks in each pass a finite
difference measures the masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_meta_adapters._typing import Loss, MicroBatches


class Replay:
    """A loss whose every evaluation draws the random numbers of its first one.

    The first call takes the global random state as it is and moves it on. Later calls start from
    the state that the first one found and put the global state back afterwards, so that they leave
    no trace in it.

    Args:
        loss: The loss.
        device: The device on which the model draws its random numbers, besides the CPU.
    """

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._cuda = device if device.type == "cuda" else None
        self._state: tuple[Tensor, Tensor | None] | None = None

    def __call__(self) -> Tensor:
        """Evaluate the loss, a 0-d tensor."""
        if self._state is None:
            self._state = self._get()
            return self._loss()
        present = self._get()
        self._set(self._state)
        try:
            return self._loss()
        finally:
            self._set(present)

    def fixed(self) -> Replay:
        """This loss with the random numbers of now in every evaluation, the first one too."""
        self._state = self._get()
        return self

    def _get(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), (
            None if self._cuda is None else torch.cuda.get_rng_state(self._cuda)
        )

    def _set(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if self._cuda is not None and state[1] is not None:
            torch.cuda.set_rng_state(state[1], self._cuda)


def listed(losses: MicroBatches) -> list[Loss]:
    """The micro-batches as a list, also where there is but one."""
    return [losses] if callable(losses) else list(losses)


def replayed(losses: MicroBatches, device: torch.device) -> list[Replay]:
    """One `Replay` for each micro-batch."""
    return [Replay(loss, device) for loss in listed(losses)]

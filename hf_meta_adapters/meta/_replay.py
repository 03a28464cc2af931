"""Losses that can be evaluated several times with the same random numbers.

Every estimator evaluates the training loss of a language more than once, and all of these passes
have to be values of *one* function of the parameters: with new dropout masks in each pass a finite
difference would measure the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, Loss, MicroBatches
from hf_meta_adapters.meta.sampled_losses import SampledLosses

RandomState: TypeAlias = tuple[Tensor, Tensor | None]
"""The states of the CPU's generator and of the GPU's, if there is one."""


class Replay:
    """A loss whose every evaluation draws the random numbers of its first one.

    The first call takes the global random state as it is and moves it on. Later calls start from
    the state in which the first one started, and put the global state back afterwards, so that they
    leave no trace in it.

    Args:
        loss: The loss.
        device: The device on which the model draws its random numbers, besides the CPU.
        state: The random state of every evaluation, the first one included; `None` takes that of
            the first call.
    """

    def __init__(self, loss: Loss, device: torch.device, state: RandomState | None = None) -> None:
        self._loss = loss
        self._gpu = device if device.type == "cuda" else None
        self.state = state
        """The state in which every evaluation starts, once it is known."""

    def __call__(self) -> Tensor:
        """Evaluate the loss, a 0-d tensor."""
        if self.state is None:
            self.state = self._random_state()
            return self._loss()

        before = self._random_state()
        self._set_random_state(self.state)
        try:
            return self._loss()
        finally:
            self._set_random_state(before)

    def fixed(self) -> Replay:
        """This loss with the present random numbers in every evaluation, the first one included."""
        self.state = self._random_state()
        return self

    def _random_state(self) -> RandomState:
        if self._gpu is None:
            return torch.get_rng_state(), None
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._gpu)

    def _set_random_state(self, state: RandomState) -> None:
        on_cpu, on_gpu = state
        torch.set_rng_state(on_cpu)
        if self._gpu is not None and on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, self._gpu)


def listed(losses: MicroBatches) -> list[Loss]:
    """The micro-batches as a list, even if there is only one."""
    if callable(losses):
        return [losses]
    return list(losses)


def with_loss(losses: Mapping[Language, MicroBatches]) -> list[Language]:
    """The languages that have a loss: an empty sequence of micro-batches is none."""
    return [key for key, micro_batches in losses.items() if listed(micro_batches)]


def without_loss(**roles: Mapping[Language, MicroBatches]) -> dict[str, tuple[Language, ...]]:
    """Role → the languages that have no loss in it; roles in which all have one are absent."""
    lacking: dict[str, tuple[Language, ...]] = {}
    for role, losses in roles.items():
        present = set(with_loss(losses))
        missing = tuple(key for key in losses if key not in present)
        if missing:
            lacking[role] = missing

    return lacking


def replayed(losses: MicroBatches, device: torch.device) -> Sequence[Loss]:
    """One `Replay` for each micro-batch; a sample stays one."""
    return each(losses, lambda loss: Replay(loss, device))


def each(losses: MicroBatches, change: Callable[[Loss], Loss]) -> Sequence[Loss]:
    """Change every micro-batch; a sample stays one."""
    if isinstance(losses, SampledLosses):
        sample = [change(loss) for loss in losses.sample]
        return SampledLosses(sample, [change(loss) for loss in losses.rest], losses.scale)
    return [change(loss) for loss in listed(losses)]

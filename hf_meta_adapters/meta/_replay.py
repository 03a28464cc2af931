"""Losses that can be evaluated several times with the same random numbers.

Every estimator evaluates the training loss of a language more than once, and all of these passes
have to be values of *one* function of the parameters: with new dropout masks in each pass a finite
difference would measure the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, Loss, MicroBatches
from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import (
    CommonLoss,
    IndivisiblePassError,
    SampledLosses,
)


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
        self._device = device
        self.state = state
        """The state in which every evaluation starts, once it is known."""

    def __call__(self) -> Tensor:
        """Evaluate the loss, a 0-d tensor."""
        if self.state is None:
            self.fixed()
            return self._loss()

        with self.state.again():
            return self._loss()

    def fixed(self) -> Replay:
        """This loss with the present random numbers in every evaluation, the first one included."""
        self.state = RandomState.now(self._device)
        return self

    def rest(self, loss: Loss) -> Loss:
        """A loss of other rows, whose random numbers follow from the state of this one.

        It is evaluated after this one, and leaves no trace in the global state: this loss and the
        rest draw what they draw in one pass (`common`).
        """

        def evaluate() -> Tensor:
            start = self.state or RandomState.now(self._device)
            with start.apart().again():
                return loss()

        return evaluate

    def common(self, loss: CommonLoss) -> CommonLoss:
        """A loss of the rows of this one and of the rest, which draws the same random numbers."""

        def evaluate(language: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
            if self.state is not None:
                with self.state.again():
                    return loss(language)

            start = RandomState.now(self._device)
            try:
                value = loss(language)
            except IndivisiblePassError:
                # as if it had not been tried
                start.set()
                raise

            self.state = start
            return value

        return evaluate


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
    """One `Replay` for each micro-batch, which may be one already; a sample stays one."""
    if not isinstance(losses, SampledLosses):
        return each(losses, lambda loss: _replay(loss, device))

    sample = [_replay(loss, device) for loss in losses.sample]
    rest: list[Loss] = []
    for number, loss in enumerate(losses.rest):
        # one more than there are samples, if one has no label
        paired = number < len(sample)
        rest.append(sample[number].rest(loss) if paired else _replay(loss, device))

    common = [own.common(loss) for own, loss in zip(sample, losses.common, strict=False)]
    return SampledLosses(sample, rest, losses.scale, common)


def each(losses: MicroBatches, change: Callable[[Loss], Loss]) -> Sequence[Loss]:
    """Change every micro-batch; a sample stays one, without passes in common with the rest."""
    if isinstance(losses, SampledLosses):
        sample = [change(loss) for loss in losses.sample]
        return SampledLosses(sample, [change(loss) for loss in losses.rest], losses.scale)
    return [change(loss) for loss in listed(losses)]


def _replay(loss: Loss, device: torch.device) -> Replay:
    return loss if isinstance(loss, Replay) else Replay(loss, device)

"""A step of the optimizer that is kept until the next step's training gradient is known."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta._kept_pass import KeptPass
from hf_meta_adapters.meta._optimizer_derivative import optimizer_derivative
from hf_meta_adapters.meta._replay import Replay
from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import divided
from hf_meta_adapters.meta.vectors import Vector, absent, local, mapped, norm, ratio

__all__ = ["KeptStep"]


class KeptStep:
    """Step t of `lookahead="next"`: its training passes, where it began, and how θ moved.

    D_t is added when the optimizer takes its step, from the gradient that it sees then: after
    clipping, with the rate that the schedule has. Sharded parameters are kept as the parts that
    this process holds.

    Args:
        passes: The training pass of each language.
        point: The values of θ_t.
        share: 1/L, the weight of each pass in the gradient of θ.
    """

    def __init__(
        self, passes: Mapping[Language, KeptPass], point: list[Tensor], share: float
    ) -> None:
        self.passes = dict(passes)
        self.point = point
        self.share = share
        self.groups: Mapping[str, Sequence[Language]] = {key: (key,) for key in passes}
        """The languages that share each pass."""
        self.derivative: Vector | None = None
        """D_t; `None` as long as the optimizer has not taken the step."""
        self.updates = 0
        """How many steps the optimizer has taken since."""

        self._parameters: list[Tensor] = []
        self._length = torch.zeros(())

    def watch(self, optimizer: Optimizer, parameters: Sequence[Tensor], gradient: Vector) -> None:
        """Record D_t when the optimizer takes its next step.

        Args:
            optimizer: The optimizer of θ.
            parameters: θ.
            gradient: g_t, as it was computed.
        """
        self._parameters, self._length = list(parameters), norm(gradient)

        # The optimizer outlives this step, and must not keep it.
        method = weakref.WeakMethod(self._observe)

        def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            observe = method()
            if observe is not None:
                observe(optimizer)

        handle = optimizer.register_step_pre_hook(before_step)
        weakref.finalize(self, handle.remove)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Everything but the losses, as tensors by name.

        Returns:
            What this process has alone (gradients of φ and random states), and what all processes
            have alike unless parameters are sharded (θ_t, D_t and φ_t).
        """
        own: dict[str, Tensor] = {}
        common = _named("point", self.point)
        if self.derivative is not None:
            common |= _named("derivative", self.derivative)

        for key, one in self.passes.items():
            common |= _named(f"{key}/point", one.point)
            own |= _named(f"{key}/gradient", one.gradient)
            for number, loss in enumerate(one.losses):
                if isinstance(loss, Replay) and loss.state is not None:
                    own |= _named(f"{key}/random/{number}", loss.state.tensors())

        return own, common

    @classmethod
    def of_state(
        cls, losses: Mapping[str, Sequence[Loss]], state: Mapping[str, Tensor], share: float
    ) -> KeptStep:
        """The kept step whose `state` was saved after the optimizer had taken it.

        Args:
            losses: The micro-batches of each pass, with a sample where the step had one.
            state: The tensors by name, on the device of the model.
            share: 1/L.

        Returns:
            The step.
        """
        point = _listed("point", state)
        device = point[0].device
        derivative = absent(point)
        for position in range(len(point)):
            derivative[position] = state.get(f"derivative/{position}")

        passes = {}
        for key, several in losses.items():
            own = _listed(f"{key}/point", state)
            gradient = [state.get(f"{key}/gradient/{position}") for position in range(len(own))]

            parts = divided(several)
            replays = []
            for number, loss in enumerate(parts.sample):
                random = RandomState.of(_listed(f"{key}/random/{number}", state), device)
                replays.append(Replay(loss, device, random))
            passes[key] = KeptPass(replays, gradient, own, parts.scale)

        kept = cls(passes, point, share)
        kept.derivative, kept.updates = derivative, 1
        return kept

    def _observe(self, optimizer: Optimizer) -> None:
        """Record D_t, with respect to the gradient as it was computed."""
        self.updates += 1
        if self.updates > 1:
            return

        gradients: Vector = [parameter.grad for parameter in self._parameters]
        # Clipping multiplies g_t by a number, which is held constant.
        factor = ratio(norm(gradients), self._length)
        derivative = optimizer_derivative(optimizer, self._parameters, gradients, factor)
        self.derivative = mapped(derivative, local)


def _named(name: str, entries: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """The entries that are present, each under its position."""
    return {
        f"{name}/{position}": entry for position, entry in enumerate(entries) if entry is not None
    }


def _listed(name: str, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The entries of `_named`, where none was absent."""
    entries: list[Tensor] = []
    while f"{name}/{len(entries)}" in state:
        entries.append(state[f"{name}/{len(entries)}"])
    return entries

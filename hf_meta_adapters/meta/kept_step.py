"""A step of the optimizer that is kept until the next step's training gradient is known."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta._kept_pass import KeptPass
from hf_meta_adapters.meta._optimizer_derivative import OptimizerDerivative
from hf_meta_adapters.meta._replay import Replay
from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import divided
from hf_meta_adapters.meta.vectors import Vector, is_sharded, norm, present, ratio

__all__ = ["KeptStep"]


class KeptStep:
    """Step t of `lookahead="next"`: its training passes, where it began, and how θ moved.

    D_t is added when the optimizer takes its step, from the gradient that it sees then: after
    clipping, with the rate that the schedule has. Sharded parameters are kept as the parts that
    this process holds.

    Args:
        passes: The training pass of each language whose mixed product is to be taken.
        point: The values of θ_t.
        share: The weight of each pass in the gradient of θ, 1/L, with the factor by which some
            languages stand for all.
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
        self._part: Callable[[Vector], Vector] = list
        self._length = torch.zeros(())
        self._slope: OptimizerDerivative | None = None

    def watch(self, optimizer: Optimizer, parameters: Sequence[Tensor], gradient: Vector) -> None:
        """Record D_t when the optimizer takes its next step.

        Args:
            optimizer: The optimizer of θ.
            parameters: θ.
            gradient: g_t, as it was computed.
        """
        self._parameters = list(parameters)
        self._part = _first_rows if _is_told_by_first_rows(gradient) else list
        self._length = norm(self._part(gradient))
        self._slope = OptimizerDerivative(optimizer, parameters, self.point)

        # The optimizer outlives this step, and must not keep it.
        method = weakref.WeakMethod(self._observe)

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            observe = method()
            if observe is not None:
                observe()

        handle = optimizer.register_step_post_hook(after_step)
        weakref.finalize(self, handle.remove)

    def add_samples(self, sampled: KeptStep) -> None:
        """Keep the passes of a sample of the rows as well, to compare their products.

        Args:
            sampled: The same step, with a sample in place of all rows.
        """
        for key, one in sampled.passes.items():
            self.passes[key] = replace(self.passes[key], sample=one)

    def of_samples(self) -> KeptStep | None:
        """The same step with the sample in place of all rows; `None` where none was added."""
        samples = {key: one.sample for key, one in self.passes.items() if one.sample is not None}
        if not samples:
            return None

        kept = KeptStep(samples, self.point, self.share)
        kept.derivative, kept.updates = self.derivative, self.updates
        return kept

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
            if one.sample is not None:
                own |= _named(f"{key}/sample", one.sample.gradient)
            for number, loss in enumerate(one.losses):
                if isinstance(loss, Replay) and loss.state is not None:
                    own |= _named(f"{key}/random/{number}", loss.state.tensors())

        return own, common

    @classmethod
    def of_state(
        cls,
        losses: Mapping[str, Sequence[Loss]],
        state: Mapping[str, Tensor],
        share: float,
        *,
        is_compared: bool = False,
    ) -> KeptStep:
        """The kept step whose `state` was saved after the optimizer had taken it.

        Args:
            losses: The micro-batches of each pass, with a sample where the step had one.
            state: The tensors by name, on the device of the model.
            share: The weight of each pass in the gradient of θ.
            is_compared: Whether the step has all rows, and a sample of them beside.

        Returns:
            The step.
        """
        point = _listed("point", state)
        device = point[0].device
        derivative = _vector("derivative", state, point)

        passes = {}
        for key, several in losses.items():
            # Without a label, a language had no pass.
            if not several:
                continue

            own = _listed(f"{key}/point", state)
            parts = divided(several)
            used = list(parts) if is_compared else parts.sample

            replays = []
            for number, loss in enumerate(used):
                random = RandomState.of(_listed(f"{key}/random/{number}", state), device)
                replays.append(Replay(loss, device, random))

            scale, sample = parts.scale, None
            if is_compared:
                of_sample = _vector(f"{key}/sample", state, own)
                sample = KeptPass(replays[: len(parts.sample)], of_sample, own, scale)
                scale = 1.0
            gradient = _vector(f"{key}/gradient", state, own)
            passes[key] = KeptPass(replays, gradient, own, scale, sample)

        kept = cls(passes, point, share)
        kept.derivative, kept.updates = derivative, 1
        return kept

    def _observe(self) -> None:
        """Record D_t, with respect to the gradient as it was computed."""
        self.updates += 1
        if self.updates > 1 or self._slope is None:
            return

        gradients: Vector = [parameter.grad for parameter in self._parameters]
        # Clipping multiplies g_t by a number, which is held constant.
        factor = ratio(norm(self._part(gradients)), self._length)
        self.derivative = self._slope(gradients, factor)
        self._slope = None


def _is_told_by_first_rows(gradient: Vector) -> bool:
    """Whether first rows are enough to see by which number a gradient is multiplied later.

    On a CPU, where the norm of all would be two more passes over memory, and nobody waits for a
    device. Not where they are so small that their squares would lose digits.
    """
    for entry in present(gradient):
        if entry.device.type != "cpu" or is_sharded(entry):
            return False
    return bool(norm(_first_rows(gradient)) > 1e-9)


def _first_rows(vector: Vector) -> Vector:
    """The first row of each entry, a view."""
    rows: Vector = []
    for entry in present(vector):
        while entry.dim() > 1 and len(entry):
            entry = entry[0]
        rows.append(entry)
    return rows


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


def _vector(name: str, state: Mapping[str, Tensor], like: Sequence[Tensor]) -> Vector:
    """The entries of `_named`, where some may have been absent."""
    return [state.get(f"{name}/{position}") for position in range(len(like))]

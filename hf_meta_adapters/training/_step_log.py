"""What a training log says of the losses and the meta-signal since the last log line."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.training._apply_gradients import Gradients

_NEGLIGIBLE = 0.01
_PATIENCE = 3


class StepLog:
    """Means of losses and of the meta-signal over steps, kept on the device until they are read.

    It warns once when the indirect part of the meta-gradient has been under 1 % of the direct part
    in three log lines in a row: the adapters are then trained on held-out batches and nothing else.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._quiet_lines = 0
        self._warned = False

    def add(self, gradients: Gradients, *, losses: bool = True) -> None:
        """Record a step.

        Args:
            gradients: What was computed.
            losses: Whether the training losses count (not where one optimizer step computes them
                several times).
        """
        # Kept as tensors: reading a value would make the host wait for the device in each step.
        if losses:
            for language, loss in gradients.train_loss.items():
                self._add(f"loss_{language}", loss)

        for language, weight in gradients.weights.items():
            self._add(f"shared_weight_{language}", weight)

        if isinstance(gradients, MetaGradients):
            for language, loss in gradients.meta_loss.items():
                self._add(f"meta_loss_{language}", loss)

        # Without a direct part, there is nothing to measure the indirect part by.
        if isinstance(gradients, MetaGradients) and not _lacks_direct_part(gradients):
            self._add("meta_direct_norm", gradients.meter.direct_norm)
            self._add("meta_indirect_norm", gradients.meter.indirect_norm)
            self._add("meta_indirect_ratio", gradients.meter.ratio)
            self._add("meta_raw_indirect_ratio", gradients.meter.raw_ratio)
            self._add("meta_cosine", gradients.meter.cosine)
            if gradients.removed is not None:
                self._add("shared_removed", gradients.removed)

    def add_value(self, name: str, value: float | None) -> None:
        """Record a value that only some steps have."""
        if value is not None:
            self._add(name, torch.tensor(value))

    def drain(self) -> dict[str, float]:
        """The means since the last call, as floats, in one transfer from the device."""
        if not self._sums:
            return {}

        # A value may be on the CPU, recorded by `add_value`: the last one decides where.
        device = next(reversed(self._sums.values()))[0].device
        means = [(total / steps).to(device) for total, steps in self._sums.values()]
        logs = dict(zip(self._sums, torch.stack(means).tolist(), strict=True))

        self._sums = {}
        self._warn_if_negligible(logs)
        return logs

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().float()  # sums of half-precision losses would overflow
        total, steps = self._sums.get(name, (torch.zeros_like(value), 0))
        self._sums[name] = (total + value, steps + 1)

    def _warn_if_negligible(self, logs: dict[str, float]) -> None:
        ratio = logs.get("meta_indirect_ratio")
        if ratio is None or self._warned:
            return

        # A ratio of exactly 0 is switched off on purpose.
        if 0 < ratio < _NEGLIGIBLE:
            self._quiet_lines += 1
        else:
            self._quiet_lines = 0

        if self._quiet_lines >= _PATIENCE:
            self._warned = True
            warnings.warn(
                f"The indirect part of the meta-gradient is {ratio:.2%} of the direct part: the"
                " second-order term hardly acts, and the adapters are trained on held-out batches"
                " and nothing else. Raise `inner_learning_rate`, hold the ratio by"
                ' `indirect_ratio`, use `inner_optimizer="adam"`, or save the cost with'
                ' `meta_gradient="first_order"`.',
                stacklevel=2,
            )


def _lacks_direct_part(gradients: MetaGradients) -> bool:
    """Whether no language of the step has a label in its meta rows."""
    return "meta" in gradients.without_loss and not any(gradients.direct.values())

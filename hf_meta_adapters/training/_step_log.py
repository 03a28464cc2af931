"""What a training log says about the languages and the meta-signal between two log lines."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.training._apply_gradients import Gradients

NEGLIGIBLE = 0.01
_PATIENCE = 3


class StepLog:
    """Means of losses and of the meta-signal over steps, kept on the device until they are asked for.

    It warns once when the indirect part of the meta-gradient has been under 1 % of the direct part
    in three log lines in a row: φ is then trained on held-out batches and no more.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._quiet = 0
        self._warned = False

    def add(self, gradients: Gradients, *, losses: bool = True) -> None:
        """Record a step.

        Args:
            gradients: What was computed.
            losses: Whether the training losses count (not where one optimizer step computes them
                several times).
        """
        found: dict[str, Tensor] = {}
        if losses:
            found.update({f"loss_{key}": value for key, value in gradients.train_loss.items()})
        if isinstance(gradients, MetaGradients):
            found.update({f"meta_loss_{key}": value for key, value in gradients.meta_loss.items()})
            meter = gradients.meter
            found.update(
                meta_direct_norm=meter.direct_norm,
                meta_indirect_norm=meter.indirect_norm,
                meta_indirect_ratio=meter.ratio,
                meta_cosine=meter.cosine,
            )
        for name, value in found.items():
            self._add(name, value.detach().float())

    def add_value(self, name: str, value: float | None) -> None:
        """Record a value that only some steps have."""
        if value is not None:
            self._add(name, torch.tensor(value))

    def _add(self, name: str, value: Tensor) -> None:
        total, steps = self._sums.get(name, (torch.zeros_like(value), 0))
        self._sums[name] = (total + value, steps + 1)

    def drain(self) -> dict[str, float]:
        """The means since the last call, as floats, in one transfer from the device."""
        if not self._sums:
            return {}
        device = next(reversed(self._sums.values()))[0].device
        means = torch.stack(
            [(total / steps).to(device) for total, steps in self._sums.values()]
        ).tolist()
        logs = dict(zip(self._sums, means, strict=True))
        self._sums = {}
        self._warn_if_negligible(logs)
        return logs

    def _warn_if_negligible(self, logs: dict[str, float]) -> None:
        ratio = logs.get("meta_indirect_ratio")
        if ratio is None or self._warned:
            return
        self._quiet = self._quiet + 1 if 0 < ratio < NEGLIGIBLE else 0
        if self._quiet >= _PATIENCE:
            self._warned = True
            warnings.warn(
                f"The indirect part of the meta-gradient is {ratio:.2%} of the direct part: the"
                " second-order term hardly acts, and the adapters are trained on held-out batches"
                ' and no more. Raise `inner_learning_rate`, write `inner_optimizer="adam"`, or'
                ' save the cost with `meta_gradient="first_order"`.',
                stacklevel=2,
            )

"""Gradients of parameters that every process holds whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta.vectors import Vector


class DifferentiateWhole(Differentiate):
    """Autograd on the parameters, which leaves every `.grad` alone."""

    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Differentiate by autograd."""
        value = loss()
        return value.detach(), self.gradient(value, parameters)

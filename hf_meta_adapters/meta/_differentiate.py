"""The interface to whatever differentiates a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta.vectors import Vector, gradient, mapped


class Differentiate(ABC):
    """Evaluates losses and their gradients.

    Args:
        scale: s > 0, 0-d: passes go backward through s·loss, and their gradients are divided by s.
            This keeps gradients of activations that half precision would round to zero
            (Micikevicius et al., ICLR 2018). `None` stands for 1.
    """

    def __init__(self, scale: Tensor | None = None) -> None:
        self._scale = scale

    @abstractmethod
    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Compute the value of a loss and its gradient for the parameters, both detached."""

    def gradient(
        self, value: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False
    ) -> Vector:
        """The gradient of a scalar that has been evaluated, by autograd."""
        return self._unscaled(gradient(self._scaled(value), parameters, create_graph=create_graph))

    def _scaled(self, value: Tensor) -> Tensor:
        if self._scale is None:
            return value

        # in float32, the dtype of the scale: s·loss may overflow in half precision
        return value.to(self._scale.dtype) * self._scale

    def _unscaled(self, vector: Vector) -> Vector:
        scale = self._scale
        if scale is None:
            return vector
        return mapped(vector, lambda entry: entry / scale)

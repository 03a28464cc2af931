"""Who differentiates a loss: autograd on the parameters, or, where these are sharded, a backward pass.

FSDP2 (`torch.distributed.fsdp.fully_shard`) keeps a part of each parameter on every process, and
gathers the whole of a layer for its passes. Autograd sees what was gathered, so that it knows no
gradient of the parameters themselves. What a backward pass leaves in their `.grad` is the mean over
processes of their gradients, sharded like them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta.vectors import Vector, gradient, is_sharded


class Differentiate(ABC):
    """Evaluates losses and their gradients.

    Args:
        scale: s > 0, 0-d: passes go backward through s·loss, and what they give is divided by s.
            Gradients of activations that half precision would round to zero are then kept
            (Micikevicius et al., ICLR 2018).
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
        return value if self._scale is None else value.to(self._scale.dtype) * self._scale

    def _unscaled(self, vector: Vector) -> Vector:
        return (
            vector
            if self._scale is None
            else [None if entry is None else entry / self._scale for entry in vector]
        )


@contextmanager
def differentiating(
    parameters: Sequence[Tensor], scale: Tensor | None = None
) -> Iterator[Differentiate]:
    """A context in which losses of these parameters can be differentiated; `.grad` is afterwards as it was.

    Args:
        parameters: All parameters that a loss may depend on and that require gradients.
        scale: The scale of backward passes; default 1.
    """
    if not any(is_sharded(parameter) for parameter in parameters):
        yield _Autograd(scale)
        return
    before = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield _Backward(parameters, scale)
    finally:
        for parameter, grad, trained in before:
            parameter.grad = grad
            parameter.requires_grad_(trained)


class _Autograd(Differentiate):
    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Differentiate by autograd."""
        value = loss()
        return value.detach(), self.gradient(value, parameters)


class _Backward(Differentiate):
    """Backward passes in which only the wanted parameters require gradients.

    Args:
        parameters: All parameters that may be wanted.
        scale: As there.
    """

    def __init__(self, parameters: Sequence[Tensor], scale: Tensor | None = None) -> None:
        super().__init__(scale)
        self._every = list(parameters)
        self._processes: int = next(p.device_mesh.size() for p in parameters if is_sharded(p))  # type: ignore[attr-defined]

    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Evaluate the loss of this process, and sum the gradients of all of them."""
        # without a backward pass, what was gathered would stay, and outlive the next move of θ
        wanted = {id(parameter) for parameter in parameters or self._every[:1]}
        for parameter in self._every:
            parameter.requires_grad_(id(parameter) in wanted)
        value = loss()
        (self._scaled(value) * self._processes).backward()
        found = [parameter.grad for parameter in parameters]
        for parameter in self._every:
            parameter.grad = None
        return value.detach(), self._unscaled(found)

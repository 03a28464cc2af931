"""Who differentiates a loss: autograd on the parameters, or, where these are sharded, a backward pass.

FSDP2 (`torch.distributed.fsdp.fully_shard`) keeps a part of each parameter on every process, and gathers the whole of
a layer for its passes. Autograd sees what was gathered, so that it knows no gradient of the parameters themselves.
What a backward pass leaves in their `.grad` is the mean over processes of their gradients, sharded like them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._vectors import Vector, gradient, is_sharded

Differentiate: TypeAlias = Callable[[Loss, Sequence[Tensor]], tuple[Tensor, Vector]]
"""Evaluates a loss; returns its value and its gradient for the parameters, both detached."""


@contextmanager
def differentiating(parameters: Sequence[Tensor]) -> Iterator[Differentiate]:
    """A context in which losses of these parameters can be differentiated; `.grad` is afterwards as it was.

    Args:
        parameters: All parameters that a loss may depend on and that require gradients.
    """
    if not any(is_sharded(parameter) for parameter in parameters):
        yield _by_autograd
        return
    before = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield _Backward(parameters)
    finally:
        for parameter, grad, trained in before:
            parameter.grad = grad
            parameter.requires_grad_(trained)


def _by_autograd(loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
    value = loss()
    return value.detach(), gradient(value, parameters)


class _Backward:
    """Backward passes in which only the wanted parameters require gradients.

    Args:
        parameters: All parameters that may be wanted.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._every = list(parameters)
        self._processes: int = next(p.device_mesh.size() for p in parameters if is_sharded(p))  # type: ignore[attr-defined]

    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Evaluate the loss of this process, and sum the gradients of all of them."""
        # without a backward pass, what was gathered would stay, and outlive the next move of θ
        wanted = {id(parameter) for parameter in parameters or self._every[:1]}
        for parameter in self._every:
            parameter.requires_grad_(id(parameter) in wanted)
        value = loss()
        (value * self._processes).backward()
        found = [parameter.grad for parameter in parameters]
        for parameter in self._every:
            parameter.grad = None
        return value.detach(), found

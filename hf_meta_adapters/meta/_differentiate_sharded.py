"""Gradients of parameters that are sharded over processes.

FSDP2 (`torch.distributed.fsdp.fully_shard`) keeps a part of each parameter on every process, and
gathers the whole of a layer for its passes. Autograd sees the gathered tensors and so knows no
gradient of the parameters themselves. A backward pass leaves it in their `.grad`: the mean over
processes, sharded like the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from hf_meta_adapters._typing import Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta.vectors import Vector, is_sharded


class DifferentiateSharded(Differentiate):
    """Backward passes in which only the requested parameters require gradients.

    It writes `.grad` and `requires_grad` of the parameters: use it inside `backward_state_kept`.

    Args:
        parameters: All parameters that may be requested.
        scale: As for `Differentiate`.
    """

    def __init__(self, parameters: Sequence[Tensor], scale: Tensor | None = None) -> None:
        super().__init__(scale)
        self._parameters = list(parameters)
        self._processes = _process_count(parameters)

    def __call__(self, loss: Loss, parameters: Sequence[Tensor]) -> tuple[Tensor, Vector]:
        """Evaluate the loss of this process, and sum the gradients of all processes."""
        # A backward pass must run even if no gradient is requested: without it, the gathered
        # layers would stay, and outlive the next move of θ.
        requested = {id(parameter) for parameter in parameters or self._parameters[:1]}
        for parameter in self._parameters:
            parameter.requires_grad_(id(parameter) in requested)

        value = loss()
        # FSDP2 takes the mean over processes; the losses of this package are shares of a sum.
        (self._scaled(value) * self._processes).backward()

        gradients = [parameter.grad for parameter in parameters]
        for parameter in self._parameters:
            parameter.grad = None

        return value.detach(), self._unscaled(gradients)


@contextmanager
def backward_state_kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """A context that starts without any `.grad` and puts every `.grad` and `requires_grad` back."""
    before = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]

    for parameter in parameters:
        parameter.grad = None

    try:
        yield
    finally:
        for parameter, grad, requires_grad in before:
            parameter.grad = grad
            parameter.requires_grad_(requires_grad)


def _process_count(parameters: Sequence[Tensor]) -> int:
    """The number of processes among which the parameters are sharded."""
    for parameter in parameters:
        if is_sharded(parameter):
            return parameter.device_mesh.size()
    return 1

"""The context in which a model can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.vectors import Vector, present

LACKS_SECOND_DERIVATIVE = (
    "derivative for",  # of a backward operation: fused attention
    "double backward",  # of torch.compile
    "once_differentiable",  # of a torch.autograd.Function
    "no autograd formula",  # of an operator of torch.library
    "forward AD",  # of an operation: the backward of SiLU
    "forward mode AD",  # of a torch.autograd.Function without `jvp`
)
"""PyTorch's words for an operation without a second derivative; it has no exception type for it."""

_RECORDED_ERROR = "torch::autograd::Error"
"""The name of the node that `once_differentiable` leaves in a graph."""


def lacks_second_derivative(error: Exception) -> bool:
    """Whether PyTorch says that an operation has no second derivative."""
    message = str(error)
    return any(words in message for words in LACKS_SECOND_DERIVATIVE)


def check_graph(vector: Vector) -> None:
    """Raise if the graph of a gradient holds an operation marked to have no second derivative.

    Such an operation leaves a node in the graph that raises when it is reached. A double backward
    reaches only nodes on a path to the requested parameters, and would silently leave out the
    contributions of others.

    Args:
        vector: A gradient with its graph.

    Raises:
        RuntimeError: If there is such an operation.
    """
    seen: set[Node] = set()
    pending: list[Node | None] = [entry.grad_fn for entry in present(vector)]

    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue

        if node.name() == _RECORDED_ERROR:
            raise RuntimeError(
                "trying to differentiate twice a function that was marked with"
                " @once_differentiable."
            )

        seen.add(node)
        pending.extend(following for following, _ in node.next_functions)


@contextmanager
def second_order() -> Iterator[None]:
    """A context for second derivatives, with an error that says what to do where there is none.

    The fused kernels of scaled dot-product attention have neither a second derivative nor a forward
    one; PyTorch's plain kernel for the same function has both. Compiled code has neither.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    except (RuntimeError, NotImplementedError) as error:
        if not lacks_second_derivative(error):
            raise

        # The first line names the operation; traces and advice follow.
        reason = str(error).splitlines()[0]

        raise ConfigurationError(
            'The estimators "exact" and "forward_mode" need operations with a second derivative.'
            f' Found one without: {reason} Use `meta_gradient="finite_difference"`, which takes'
            " ordinary passes only; or load the model with"
            ' `attn_implementation="sdpa"` or `"eager"` and without torch.compile (some'
            " operations, such as the SiLU of Llama, have a second derivative for"
            ' "exact" but none for "forward_mode").'
        ) from error

"""The context in which a model can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.vectors import Vector, present

_KNOWN = (
    "derivative for",
    "double backward",
    "forward AD",
    "forward-mode",
    "no autograd formula",
    "differentiable twice",
    "differentiate twice",
    "once_differentiable",
)


def check_graph(vector: Vector) -> None:
    """Raise if the graph of a gradient holds an operation that says of itself that it has no second derivative.

    Autograd would leave out what passes through it, without a word, since only an error is recorded
    there.

    Args:
        vector: A gradient with its graph.

    Raises:
        RuntimeError: If there is one.
    """
    seen: set[Node] = set()
    ahead: list[Node | None] = [entry.grad_fn for entry in present(vector)]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError(
                "trying to differentiate twice a function that was marked with"
                " @once_differentiable."
            )
        seen.add(node)
        ahead.extend(following for following, _ in node.next_functions)


@contextmanager
def second_order() -> Iterator[None]:
    """Attention that can be differentiated twice, and an error that says what to do where it cannot.

    The fused kernels of scaled dot-product attention have neither a second derivative nor a forward
    one; PyTorch's plain kernel for the same function has both.
    """
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.compiler.set_stance("force_eager"),
        ):  # compiled code has none either
            yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if not any(part in text for part in _KNOWN):
            raise
        raise ConfigurationError(
            'The estimators "exact" and "forward_mode" need operations with a second derivative.'
            f' Found one without: {text.splitlines()[0]} Write `meta_gradient="finite_difference"`,'
            " which takes ordinary passes only; or load the model with"
            ' `attn_implementation="sdpa"` or `"eager"` and without torch.compile (some'
            ' operations, the SiLU of Llama among them, have one for "exact" but none for'
            ' "forward_mode").'
        ) from error

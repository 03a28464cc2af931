"""A twin of an adapter, with other leaves in the same memory, for the first rows of a batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from hf_meta_adapters.backends.peft._routing import routing_in_order

_TWIN = "hf_meta_adapters_twin"
"""The name of the twin; no language code is one."""


@contextmanager
def divided_rows(
    layers: Sequence[Any], name: str, first: int, rows: int
) -> Iterator[Mapping[int, Tensor]]:
    """A context in which layers run the first rows of a batch through a twin of an adapter.

    The values of the twin are those of the adapter, wherever these go. The gradient for its leaves
    is that of the first rows alone, and the gradient for the adapter that of the others.

    Args:
        layers: The layers of PEFT.
        name: The name of the adapter.
        first: How many rows the twin takes.
        rows: How many rows the batch has.

    Yields:
        The `id` of each parameter of the adapter → the leaf of the twin.
    """
    leaves: dict[int, Any] = {}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_with_twin(layer, name, leaves))

        names = [_TWIN] * first + [name] * (rows - first)
        stack.enter_context(routing_in_order(layers, names))
        yield leaves


@contextmanager
def _with_twin(layer: Any, name: str, leaves: dict[int, Any]) -> Iterator[None]:
    """A context in which a layer has a twin of an adapter; its leaves are added to `leaves`."""
    # what PEFT keeps by the name of an adapter: modules, parameters, and settings
    places = [getattr(layer, place) for place in layer.adapter_layer_names]
    places += [getattr(layer, place) for place in layer.other_param_names]
    own = [place for place in places if isinstance(place, _BY_NAME) and name in place]

    for place in own:
        place[_TWIN] = _aliased(place[name], leaves)
    try:
        yield
    finally:
        for place in own:
            del place[_TWIN]


_BY_NAME = (nn.ModuleDict, nn.ParameterDict, dict)


def _aliased(part: Any, leaves: dict[int, Any]) -> Any:
    """A copy whose parameters are other leaves in the same memory; buffers are the same."""
    memo: dict[int, Any] = {}
    modules = [part] if isinstance(part, nn.Module) else []

    own = [parameter for module in modules for parameter in module.parameters()]
    if isinstance(part, nn.Parameter):
        own = [part]
    for parameter in own:
        alias = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        leaves[id(parameter)] = memo[id(parameter)] = alias

    # a copy takes from the memo what is in there
    memo |= {id(buffer): buffer for module in modules for buffer in module.buffers()}
    return copy.deepcopy(part, memo)

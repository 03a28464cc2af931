"""Models whose parameters FSDP2 (`torch.distributed.fsdp.fully_shard`) divides among processes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from hf_meta_adapters.meta.vectors import is_sharded, whole

_Places: TypeAlias = list[tuple[nn.Module, str]]
"""The modules that hold a parameter, each with its name there; several if the parameter is tied."""


def reshard(model: nn.Module) -> None:
    """Free parameters that an evaluation has left gathered: the model's parameters are its shards.

    Args:
        model: The model; one that is not sharded stays as it is.
    """
    # Whoever shards a model has imported it; importing it here would cost every other run seconds.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return

    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


@contextmanager
def gathered(model: nn.Module, *, here: bool = True, write: bool = False) -> Iterator[None]:
    """A context in which the model's parameters are whole, in CPU memory.

    All processes must enter it together.

    Args:
        model: The model; one that is not sharded stays as it is.
        here: Whether this process needs the whole parameters.
        write: Whether changes to them are kept; each process then keeps its part.
    """
    reshard(model)
    places = _sharded_parameters(model)

    wholes: dict[torch.Tensor, nn.Parameter] = {}
    modules: set[nn.Module] = set()
    for shard, where in places.items():
        modules.update(module for module, _ in where)

        # on every process, since all must take part
        full = whole(shard)
        if here:
            wholes[shard] = nn.Parameter(full.detach().cpu(), requires_grad=shard.requires_grad)
            _put(wholes[shard], where)

        # before the next one is gathered
        del full

    try:
        with _without_load_hooks(modules):
            yield

        if write:
            for shard, parameter in wholes.items():
                _write_shard(shard, parameter)
    finally:
        for shard, where in places.items():
            _put(shard, where)


@contextmanager
def without_head(model: Any) -> Iterator[None]:
    """A context that hides an output embedding with a bias, so that it is not sharded alone.

    Accelerate puts the output embedding into a group of its own. The bias that such a head shares
    with the layer around it, as in BERT and XLM-R, would then be in two groups, which FSDP2
    refuses.

    Args:
        model: The model.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

    # A model without a head returns `None` and has nothing to hide.
    if getattr(head, "bias", None) is None:
        yield
        return

    # Attributes of the instance hide the methods of its class; deleting them uncovers these.
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)

    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


def _sharded_parameters(model: nn.Module) -> dict[torch.Tensor, _Places]:
    """The sharded parameters, each with all places that hold it."""
    places: dict[torch.Tensor, _Places] = {}

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_sharded(parameter):
                places.setdefault(parameter, []).append((module, name))

    return places


@contextmanager
def _without_load_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which FSDP2 does not expect shards in a state dict that is loaded."""
    before = {module: module._load_state_dict_post_hooks for module in modules}

    for module, hooks in before.items():
        module._load_state_dict_post_hooks = OrderedDict(
            (key, hook)
            for key, hook in hooks.items()
            if "torch.distributed.fsdp" not in hook.__module__
        )

    try:
        yield
    finally:
        for module, hooks in before.items():
            module._load_state_dict_post_hooks = hooks


def _put(parameter: torch.Tensor, where: _Places) -> None:
    """Make the parameter the one that all places hold."""
    for module, name in where:
        module._parameters[name] = parameter  # type: ignore[assignment]


def write_whole(target: torch.Tensor, full: torch.Tensor) -> None:
    """Copy a whole tensor into one of its shape, or this process's part of it into a shard.

    Args:
        target: The tensor, changed in place.
        full: The whole tensor.
    """
    if is_sharded(target):
        _write_shard(target, full)
    else:
        target.data.copy_(full)


@torch.no_grad()
def _write_shard(shard: torch.Tensor, full: torch.Tensor) -> None:
    """Copy this process's part of a whole tensor."""
    from torch.distributed.tensor import distribute_tensor

    assert is_sharded(shard)
    part = shard.to_local()
    divided = distribute_tensor(
        full.detach().to(part.device), shard.device_mesh, shard.placements, src_data_rank=None
    )
    part.copy_(divided.to_local())

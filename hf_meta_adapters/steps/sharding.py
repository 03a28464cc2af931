"""Models whose parameters are divided among processes by FSDP2 (`torch.distributed.fsdp.fully_shard`)."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_meta_adapters.meta.vectors import is_sharded


def reshard(model: nn.Module) -> None:
    """Give back whole parameters that an evaluation has left gathered, so that the model's parameters are its shards.

    Args:
        model: The model; one that is not sharded stays as it is.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # whoever shards a model has imported it
    if fsdp is None:
        return
    for part in model.modules():
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()


@contextmanager
def gathered(model: nn.Module, *, here: bool = True, write: bool = False) -> Iterator[None]:
    """A context in which the model's parameters are whole, in the memory of the CPU; all processes enter it together.

    Args:
        model: The model; one that is not sharded stays as it is.
        here: Whether this process needs them.
        write: Whether what becomes of them is kept; each process then keeps its part.
    """
    reshard(model)
    places: dict[Any, list[tuple[nn.Module, str]]] = {}  # of one that is tied, there are several
    for part in model.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and is_sharded(parameter):
                places.setdefault(parameter, []).append((part, name))
    whole = {}
    for shard, where in places.items():
        full = shard.full_tensor()
        if here:
            whole[shard] = nn.Parameter(full.detach().cpu(), requires_grad=shard.requires_grad)
            _put(whole[shard], where)
        del full
    try:
        with _without_load_hooks({part for where in places.values() for part, _ in where}):
            yield
        if write:
            for shard, full in whole.items():
                _keep(shard, full)
    finally:
        for shard, where in places.items():
            _put(shard, where)


@contextmanager
def without_head(model: Any) -> Iterator[None]:
    """A context in which a model says nothing of an output embedding with a bias, so that nobody shards it by itself.

    Accelerate puts the output embedding into a group of its own. The bias that such a head shares
    with the layer around it, as in BERT and XLM-R, would then be in two groups, which FSDP2
    refuses.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if getattr(head, "bias", None) is None:
        yield
        return
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


@contextmanager
def _without_load_hooks(parts: set[nn.Module]) -> Iterator[None]:
    """A context in which FSDP2 does not look for shards in what was loaded."""
    before = {part: part._load_state_dict_post_hooks for part in parts}
    for part, hooks in before.items():
        others = {
            key: hook
            for key, hook in hooks.items()
            if "torch.distributed.fsdp" not in hook.__module__
        }
        part._load_state_dict_post_hooks = OrderedDict(others)
    try:
        yield
    finally:
        for part, hooks in before.items():
            part._load_state_dict_post_hooks = hooks


def _put(parameter: nn.Parameter, where: list[tuple[nn.Module, str]]) -> None:
    for part, name in where:
        part._parameters[name] = parameter


@torch.no_grad()
def _keep(shard: Any, full: torch.Tensor) -> None:
    """Copy this process's part of a whole tensor."""
    from torch.distributed.tensor import distribute_tensor

    full = full.detach().to(shard.to_local().device)
    shard.to_local().copy_(
        distribute_tensor(full, shard.device_mesh, shard.placements, src_data_rank=None).to_local()
    )

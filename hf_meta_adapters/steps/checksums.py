"""Checksums of the weights of a model, by which processes find out whether theirs are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import is_sharded
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_WORD = 8
_BLOCK = 4096  # bytes
_PART = 1024  # blocks at a time, which need as much memory again


def checksums(model: LanguageAdapterModel) -> dict[str, str]:
    """Compute a checksum of every parameter, bit by bit.

    Not of buffers: running statistics are those of the rows that a process has seen.

    Args:
        model: The model.

    Returns:
        name → checksum. Shards and tensors without memory are left out.
    """
    names: list[str] = []
    sums: list[Tensor] = []
    for name, tensor in model.named_parameters():
        if not (is_sharded(tensor) or tensor.is_meta or tensor.layout != torch.strided):
            names.append(name)
            sums.append(_checksum(tensor.detach()))

    if not sums:
        return {}

    # One transfer from the device for all of them.
    values: list[int] = torch.stack([total.to(sums[0].device) for total in sums]).tolist()
    return {name: f"{value % 2**64:016x}" for name, value in zip(names, values, strict=True)}


def _checksum(tensor: Tensor) -> Tensor:
    """The sum of the bits as whole numbers, each by its place; the same on every device."""
    octets = tensor.contiguous().reshape(-1).view(torch.uint8)
    if octets.storage_offset() % _WORD:
        octets = octets.clone()  # words must begin at whole words

    # Words, since sums of small numbers would first be cast to large ones, which takes ten times as
    # long. Their order counts, as both rows and columns are summed.
    blocks = octets.numel() // _BLOCK
    words = octets[: blocks * _BLOCK].view(torch.int64).view(blocks, _BLOCK // _WORD)
    columns = words.new_zeros(_BLOCK // _WORD)
    rows: list[Tensor] = []
    for part in words.split(_PART):
        mixed = part ^ (part >> 32)  # the highest bit, often a sign, would leave no trace in sums
        columns += mixed.sum(0)
        rows.append(mixed.sum(1))

    # Whole numbers overflow modulo 2⁶⁴ in any order of the summands, and an odd factor loses
    # nothing of what it multiplies.
    sums = torch.cat([columns, *rows, octets[blocks * _BLOCK :].long()])
    places = 2 * torch.arange(len(sums), device=sums.device) + 1
    return (sums * places).sum()

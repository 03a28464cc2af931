"""Checksums of the weights of a model, by which processes find out whether theirs are equal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import is_sharded
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_BITS: Mapping[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    """The sum of the bits as whole numbers, each row by its place; the same on every device."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)

    bits = tensor.contiguous().view(_BITS[tensor.element_size()])
    if bits.numel() == 0:
        return bits.new_zeros((), dtype=torch.int64)

    rows = bits.reshape(bits.shape[0] if bits.dim() > 1 else bits.numel(), -1)
    sums = rows.sum(1, dtype=torch.int64)

    # Whole numbers overflow modulo 2⁶⁴: the order of the summands does not matter. Odd factors lose
    # nothing of what they multiply.
    return (sums * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum()

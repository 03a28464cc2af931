"""What the memory of a device says of the step at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of a CUDA device, in bytes.

    Args:
        taken: What the tensors of this process take now.
        peak: The most that they took since the last `restart_peak`.
        capacity: What this process has, and what is free on the device.
    """

    taken: float
    peak: float
    capacity: float


def has_readable_memory(device: torch.device) -> bool:
    """Whether the device says what its memory holds."""
    return device.type == "cuda"


def read_memory(device: torch.device) -> DeviceMemory:
    """Read it; nothing is waited for, since the host itself allocates.

    Args:
        device: A CUDA device.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return DeviceMemory(
        taken=torch.cuda.memory_allocated(device),
        peak=torch.cuda.max_memory_allocated(device),
        # The allocator keeps what tensors have given back, and it is not free on the device.
        capacity=free + torch.cuda.memory_reserved(device),
    )


def restart_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    torch.cuda.reset_peak_memory_stats(device)

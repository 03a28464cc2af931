"""What a measurement ran on: the device, its memory and driver, and its peak in bfloat16."""

from __future__ import annotations

import os
import platform
import subprocess

import torch

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["BF16_PEAKS", "bf16_peak", "describe_device"]

BF16_PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""Part of a card's name → its dense bfloat16 peak in TFLOP/s, as NVIDIA states it; the first that
fits counts."""

_DRIVER_SECONDS = 20


def bf16_peak(name: str) -> float | None:
    """Return the dense bfloat16 peak of a card.

    Args:
        name: The name of the card, as CUDA gives it.

    Returns:
        The peak in TFLOP/s; `None` if the card is not in `BF16_PEAKS`.

    Example:
        >>> bf16_peak("NVIDIA H100 80GB HBM3")
        989.0
    """
    for part, peak in BF16_PEAKS.items():
        if part in name:
            return peak

    return None


def describe_device(kind: str) -> dict[str, object]:
    """Describe the device that a run is going to use.

    Args:
        kind: `"cuda"` or `"cpu"`.

    Returns:
        `device`, `name`, `cores` (of the CPU), and on CUDA `memory_gb` (10⁹ bytes), `driver`,
        `cuda`, `capability`, `bf16` (whether the card computes in it) and `bf16_peak_tflops`.

    Raises:
        ConfigurationError: If there is no such device.

    Example:
        >>> describe_device("cpu")["device"]
        'cpu'
    """
    found: dict[str, object] = {"device": kind, "cores": os.cpu_count()}
    if kind != "cuda":
        return {**found, "name": platform.machine()}

    if not torch.cuda.is_available():
        raise ConfigurationError(
            "A measurement on a GPU needs a CUDA device, and a PyTorch built for it. Found none"
            f" with torch {torch.__version__}. Use `--device cpu` to try the recipe."
        )

    properties = torch.cuda.get_device_properties(0)
    return {
        **found,
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "bf16": torch.cuda.is_bf16_supported(),
        "bf16_peak_tflops": bf16_peak(properties.name),
    }


def _driver() -> str | None:
    """The version of the driver; `None` where `nvidia-smi` does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(  # noqa: S603 (fixed arguments)
            command, capture_output=True, text=True, timeout=_DRIVER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None

    return run.stdout.split("\n")[0].strip() or None

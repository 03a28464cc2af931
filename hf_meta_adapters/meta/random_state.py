"""The states of the generators that dropout draws from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

__all__ = ["RandomState"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RandomState:
    """The states of the CPU's generator and of a GPU's, if there is one.

    Args:
        cpu: That of the CPU.
        gpu: That of the GPU.
        device: The GPU.
    """

    cpu: Tensor
    gpu: Tensor | None = None
    device: torch.device | None = None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present one.

        Args:
            device: Where the model draws its random numbers, besides the CPU.
        """
        if device.type != "cuda":
            return cls(torch.get_rng_state())
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device), device)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], device: torch.device) -> RandomState:
        """What `tensors` returned, wherever it has been loaded to."""
        cpu, *gpu = [tensor.cpu() for tensor in tensors]
        if not gpu:
            return cls(cpu)
        return cls(cpu, gpu[0], device)

    def tensors(self) -> list[Tensor]:
        """The states, on the CPU."""
        return [self.cpu] if self.gpu is None else [self.cpu, self.gpu]

    def set(self) -> None:
        """Make it the present one."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None and self.device is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)

    def apart(self) -> RandomState:
        """Another one that follows from this one and draws numbers of its own."""
        gpu = None
        if self.gpu is not None and self.device is not None:
            gpu = _seeded(self.gpu, self.device)
        return RandomState(_seeded(self.cpu, _CPU), gpu, self.device)

    def digest(self) -> bytes:
        """Bytes that tell states apart."""
        return b"".join(part.numpy().tobytes() for part in self.tensors())

    @contextmanager
    def again(self) -> Iterator[None]:
        """A context that begins in this state, and leaves no trace in the present one."""
        device = self.device or _CPU
        before = RandomState.now(device)
        self.set()
        try:
            yield
        finally:
            before.set()


def _seeded(state: Tensor, device: torch.device) -> Tensor:
    """The state of a generator that is seeded by another state."""
    digest = blake2b(state.numpy().tobytes(), digest_size=7).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
    return generator.get_state()

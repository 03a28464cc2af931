"""Moving the shared weights θ in place for a while, and putting back every bit of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import Vector, local


class Anchor:
    """A copy of θ to move away from and to return to.

    It writes through `.data`, past autograd's version counter. A graph recorded at θ therefore
    stays usable while θ is elsewhere, and it is right to use it again once θ is back: back means
    copied back, bit for bit, since (θ + δ) − δ is not θ in floating point.

    Args:
        parameters: θ. The copy is the only one that an outer step with a single virtual step keeps,
            whatever the number of languages.
        cpu_offload: Keep the copy in the memory of the CPU, and bring one parameter at a time.
    """

    def __init__(self, parameters: Sequence[Tensor], *, cpu_offload: bool = False) -> None:
        self._live = [local(parameter.data) for parameter in parameters]
        self._cpu_offload = cpu_offload
        self._start = [self._kept(parameter) for parameter in self._live]
        self._base = self._start
        self._away = False

    @torch.no_grad()
    def move(self, direction: Vector, step: Tensor | float) -> None:
        """θ ← base + step · direction."""
        away, self._away = self._away, True
        # it knows weights by their version, which writing through `.data` leaves alone
        torch.clear_autocast_cache()
        for live, base, entry in zip(self._live, self._base, direction, strict=True):
            if entry is not None:  # one pass over memory, and no copy of the direction
                size = torch.as_tensor(step, dtype=live.dtype, device=live.device)
                torch.addcmul(base.to(live.device), local(entry).to(live.device), size, out=live)
            elif away:
                live.copy_(base)

    def restore(self) -> None:
        """θ ← base, bit for bit."""
        if self._away and self._live:
            torch.clear_autocast_cache()
            torch._foreach_copy_(self._live, self._base)
        self._away = False

    def rebase(self, base: list[Tensor] | None = None) -> None:
        """Make `base` the point that moves start from and return to, and go there; `None` is the θ of the beginning."""
        goal = self._start if base is None else base
        self._away = self._away or goal is not self._base
        self._base = goal
        self.restore()

    def base(self) -> list[Tensor]:
        """The point that moves start from."""
        return self._base

    def here(self) -> list[Tensor]:
        """A copy of where θ now is."""
        return [self._kept(entry) for entry in self._live]

    def _kept(self, entry: Tensor) -> Tensor:
        return entry.to("cpu", copy=True) if self._cpu_offload else entry.clone()


@contextmanager
def anchored(parameters: Sequence[Tensor], *, cpu_offload: bool = False) -> Iterator[Anchor]:
    """An `Anchor` that restores θ on leaving, also when an error leaves."""
    anchor = Anchor(parameters, cpu_offload=cpu_offload)
    try:
        yield anchor
    finally:
        anchor.rebase()

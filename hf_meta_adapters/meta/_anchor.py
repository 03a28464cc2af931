"""Moving the shared weights θ in place for a while, and restoring every bit of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hf_meta_adapters.meta.vectors import Vector, local


class Anchor:
    """A copy of θ to move away from and to return to.

    It writes through `.data`, past autograd's version counter. A graph recorded at θ therefore
    stays usable while θ is elsewhere, and using it is correct once θ is back: copied back, bit for
    bit, since (θ + δ) − δ is not θ in floating point.

    Args:
        parameters: θ. The copy is the only one that an outer step with a single virtual step keeps,
            whatever the number of languages.
        cpu_offload: Keep the copy in CPU memory, and bring back one parameter at a time.
    """

    def __init__(self, parameters: Sequence[Tensor], *, cpu_offload: bool = False) -> None:
        self._live = [local(parameter.data) for parameter in parameters]
        self._cpu_offload = cpu_offload
        self.start = [self._copy(parameter) for parameter in self._live]
        """The values of θ with which the anchor was made."""
        self._base = self.start
        self._is_away = False

    @torch.no_grad()
    def move(self, direction: Vector, step: Tensor | float) -> None:
        """θ ← base + step · direction."""
        was_away, self._is_away = self._is_away, True
        # Autocast caches weights by their version, which writing through `.data` does not change.
        torch.clear_autocast_cache()

        sizes: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        for live, base, entry in zip(self._live, self._base, direction, strict=True):
            if entry is not None:
                kind = live.dtype, live.device
                if kind not in sizes:
                    sizes[kind] = _scalar(step, live)

                # one pass over memory, and no copy of the direction
                there = local(entry).to(live.device)
                torch.addcmul(base.to(live.device), there, sizes[kind], out=live)
            elif was_away:
                # absent from this direction, but an earlier one may have moved it
                live.copy_(base)

    def restore(self) -> None:
        """θ ← base, bit for bit."""
        if self._is_away and self._live:
            torch.clear_autocast_cache()
            torch._foreach_copy_(self._live, self._base)
        self._is_away = False

    def rebase(self, base: list[Tensor] | None = None) -> None:
        """Make `base` the point from which moves start, and go there; `None` is the original θ."""
        self.start_from(base)
        self.restore()

    def start_from(self, base: list[Tensor] | None = None) -> None:
        """Make `base` the point from which moves start, and leave θ where it is until then."""
        if base is None:
            base = self.start

        # The same list means the same point, and nothing to copy if θ is there.
        self._is_away = self._is_away or base is not self._base
        self._base = base

    def base(self) -> list[Tensor]:
        """The point from which moves start."""
        return self._base

    def here(self) -> list[Tensor]:
        """A copy of the present θ."""
        return [self._copy(entry) for entry in self._live]

    def _copy(self, entry: Tensor) -> Tensor:
        if self._cpu_offload:
            return entry.to("cpu", copy=True)
        return entry.clone()


def _scalar(number: Tensor | float, like: Tensor) -> Tensor:
    """A number as a 0-d tensor of the same type, where the other tensor is."""
    if isinstance(number, Tensor):
        return number.to(like.device, like.dtype)

    # filled there: the host would wait until it is copied to a device
    return torch.full((), number, dtype=like.dtype, device=like.device)


@contextmanager
def anchored(parameters: Sequence[Tensor], *, cpu_offload: bool = False) -> Iterator[Anchor]:
    """An `Anchor` that restores θ on leaving, even after an error."""
    anchor = Anchor(parameters, cpu_offload=cpu_offload)
    try:
        yield anchor
    finally:
        anchor.rebase()

"""The losses of a language of which a sample stands for all in the mixed product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from hf_meta_adapters._typing import Loss

__all__ = ["SampledLosses", "divided"]


@dataclass(frozen=True)
class SampledLosses(Sequence[Loss]):
    """The micro-batches of a language, the first of which are a sample of its rows.

    All of them are evaluated for the training gradient. The mixed product, which is the derivative
    of that gradient, is taken of the sample S alone, with its mean in place of the mean over all
    rows:

        N / N_S ∇φ⟨∇θ L_S, w⟩,     L_S = Σ_{n∈S} ℓ_n / N

    For rows that were drawn at random its expectation is the product of all rows.

    Args:
        sample: The micro-batches of the sample.
        rest: The other micro-batches.
        scale: N / N_S, all labels by those of the sample, on all processes together.
    """

    sample: Sequence[Loss]
    rest: Sequence[Loss]
    scale: float

    def __len__(self) -> int:
        return len(self.sample) + len(self.rest)

    @overload
    def __getitem__(self, index: int) -> Loss: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Loss]: ...

    def __getitem__(self, index: int | slice) -> Loss | Sequence[Loss]:
        return [*self.sample, *self.rest][index]

    def __iter__(self) -> Iterator[Loss]:
        yield from self.sample
        yield from self.rest


def divided(losses: Sequence[Loss]) -> SampledLosses:
    """The losses as a sample and the rest; without a sample, all of them take its part."""
    if isinstance(losses, SampledLosses):
        return losses
    return SampledLosses(losses, (), 1.0)

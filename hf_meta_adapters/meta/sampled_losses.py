"""The losses of a language of which a sample stands for all in the mixed product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from torch import Tensor

from hf_meta_adapters._typing import Loss

__all__ = ["CommonLoss", "IndivisiblePassError", "SampledLosses", "divided"]

CommonLoss: TypeAlias = Callable[[Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""Evaluates the sample and the rest of a micro-batch in one pass.

It is given φ, and returns the loss, 0-d, and leaves with the values of φ on which the sample
depends in the place of φ: the gradient for them is that of the sample alone.
"""


class IndivisiblePassError(Exception):
    """A pass over all rows cannot tell the sample from the rest: they need passes of their own."""


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
        common: For each micro-batch of the sample a loss of all its rows, in one pass. Empty where
            there is none, or where it may draw other random numbers for the sample.
    """

    sample: Sequence[Loss]
    rest: Sequence[Loss]
    scale: float
    common: Sequence[CommonLoss] = ()

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

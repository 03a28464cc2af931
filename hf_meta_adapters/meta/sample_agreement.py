"""How far the meta-gradient of a sample of the rows agrees with that of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Language
from hf_meta_adapters.meta.result import NamedGradient
from hf_meta_adapters.meta.vectors import Vector, dot, norm

__all__ = ["SampleAgreement"]


@dataclass(frozen=True)
class SampleAgreement:
    """The terms of a cosine, which add up over languages: cos = ⟨s, f⟩ / (‖s‖ ‖f‖).

    Args:
        terms: ⟨s, f⟩, ‖s‖² and ‖f‖², where s is the gradient with the sample and f that of all
            rows.
        odds: N/n − 1, the mean over the languages, with N labels of which the sample has n.
    """

    terms: Tensor
    odds: float

    @classmethod
    def of(
        cls,
        sampled: Mapping[Language, NamedGradient],
        whole: Mapping[Language, NamedGradient],
        scales: Iterable[float],
    ) -> SampleAgreement:
        """Compare two meta-gradients of the same batches.

        Args:
            sampled: s, by language and parameter name.
            whole: f.
            scales: N/n of each language.

        Returns:
            The terms, as they are on this process: gradients are sums over processes already.
        """
        left: Vector = []
        right: Vector = []
        for key, gradient in whole.items():
            for name, entry in gradient.items():
                # a parameter on which no row of the sample depends has no entry
                left.append(sampled[key].get(name))
                right.append(entry)

        every = [scale - 1 for scale in scales]
        odds = sum(every) / max(len(every), 1)
        squares = [norm(left).double().square(), norm(right).double().square()]
        product = dot(left, right).double().to(squares[1].device)
        return cls(torch.stack([product, *(entry.to(product) for entry in squares)]), odds)

    def __add__(self, other: SampleAgreement) -> SampleAgreement:
        """That of the languages of both; the sample is the same share of the rows in both."""
        return SampleAgreement(self.terms + other.terms, self.odds)

    def cosine(self, all_reduce: AllReduce | None) -> float:
        """The cosine, the same on all processes; NaN where one of the two gradients is nothing.

        Args:
            all_reduce: Sums over processes in place; `None` on a single process.
        """
        total = self.terms.clone()
        if all_reduce is not None:
            all_reduce(total)

        product, sampled, whole = total.tolist()
        if not (sampled > 0 and whole > 0):
            return float("nan")
        return float(product / (sampled * whole) ** 0.5)

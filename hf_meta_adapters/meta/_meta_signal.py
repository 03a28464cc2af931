"""The meter of the meta-signal: how much of a meta-gradient is second-order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.vectors import Vector, cosine, dot, norm, ratio


@dataclass(frozen=True)
class MetaSignal:
    """How much the second-order part weighs in a meta-gradient.

    All values are 0-d tensors on the device: reading one makes the host wait.

    Args:
        direct_norm: ‖direct‖, the norm of the part by which φ acts on its own validation loss.
        indirect_norm: ‖indirect‖, the norm of the part that runs through the virtual step of θ.
        ratio: ‖indirect‖ / ‖direct‖.
        cosine: The cosine of the angle between the two parts; 0 if one of them is absent.
        raw_ratio: ‖indirect‖ / ‖direct‖ before `indirect_ratio` or `max_indirect_ratio` scaled the
            indirect part.
    """

    direct_norm: Tensor
    indirect_norm: Tensor
    ratio: Tensor
    cosine: Tensor
    raw_ratio: Tensor

    @classmethod
    def of_languages(
        cls,
        direct: Mapping[Language, Vector],
        indirect: Mapping[Language, Vector],
        raw: Mapping[Language, Vector | None],
    ) -> tuple[MetaSignal, dict[Language, MetaSignal]]:
        """Measure the two parts, each of them read once.

        Args:
            direct: The direct part of each language.
            indirect: The indirect part of each, as it is used.
            raw: The indirect part of each as it was computed, where it has been scaled since.

        Returns:
            The meter of all languages together, one after the other in one vector, and that of
            each.
        """
        each = {key: _Products.of(direct[key], indirect[key], raw[key]) for key in direct}
        together = _Products.together(list(each.values()))
        return cls._from(together), {key: cls._from(products) for key, products in each.items()}

    @classmethod
    def _from(cls, products: _Products) -> MetaSignal:
        direct, indirect = products.direct_norm, products.indirect_norm
        return cls(
            direct_norm=direct,
            indirect_norm=indirect,
            cosine=cosine(products.inner_product, direct * indirect),
            ratio=ratio(indirect, direct),
            raw_ratio=ratio(products.raw_norm, direct),
        )

    def to_dict(self) -> dict[str, float]:
        """The values as floats."""
        return {
            "direct_norm": float(self.direct_norm),
            "indirect_norm": float(self.indirect_norm),
            "ratio": float(self.ratio),
            "cosine": float(self.cosine),
            "raw_ratio": float(self.raw_ratio),
        }


class _Products(NamedTuple):
    """What a meter is computed from, 0-d each."""

    direct_norm: Tensor
    indirect_norm: Tensor
    raw_norm: Tensor
    inner_product: Tensor

    @classmethod
    def of(cls, direct: Vector, indirect: Vector, raw: Vector | None) -> _Products:
        """Of two parts, and of the second one before it was scaled."""
        indirect_norm = norm(indirect)
        raw_norm = indirect_norm if raw is None else norm(raw)
        return cls(norm(direct), indirect_norm, raw_norm, dot(direct, indirect))

    @classmethod
    def together(cls, several: Sequence[_Products]) -> _Products:
        """Of vectors that are put one after the other."""
        direct, indirect, raw, inner = zip(*several, strict=True) if several else ([],) * 4
        return cls(_norm(direct), _norm(indirect), _norm(raw), _sum(inner))


def _norm(lengths: Sequence[Tensor]) -> Tensor:
    return _sum([length.square() for length in lengths]).sqrt()


def _sum(numbers: Sequence[Tensor]) -> Tensor:
    # Not stacked: the norm of a part that a language does not have is a zero on the CPU.
    return reduce(torch.add, numbers, torch.zeros(()))

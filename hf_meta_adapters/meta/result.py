"""What an outer step returns: gradients by name, and a meter of the meta-signal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.vectors import Vector, dot, norm, scaled

NamedGradient = dict[str, Tensor]


@dataclass(frozen=True)
class MetaSignal:
    """How much the second-order part weighs in a meta-gradient. All values are 0-d tensors on the device.

    Args:
        direct_norm: ‖direct‖, of the part that φ has on its own validation loss.
        indirect_norm: ‖indirect‖, of the part that runs through the virtual step of θ.
        ratio: ‖indirect‖ / ‖direct‖.
        cosine: The cosine of the angle between the two parts.
    """

    direct_norm: Tensor
    indirect_norm: Tensor
    ratio: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, direct: Vector, indirect: Vector) -> MetaSignal:
        """Measure the two parts."""
        first, second = norm(direct), norm(indirect)
        product = first * second
        # 0/0 reads 0: where a part is absent there is no angle, and the ratio of nothing to nothing
        # is nothing
        cosine = torch.where(
            product > 0, dot(direct, indirect).to(product) / product.clamp_min(1e-38), product
        )
        ratio = torch.where(second > 0, second / first.clamp_min(1e-38), second)
        return cls(first, second, ratio, cosine)

    def to_dict(self) -> dict[str, float]:
        """The four values as floats."""
        return {
            name: float(getattr(self, name))
            for name in ("direct_norm", "indirect_norm", "ratio", "cosine")
        }


@dataclass(frozen=True)
class JointGradients:
    """The gradients of joint training. Nothing has been updated with them.

    Args:
        shared: 1/L Σ_i ∇θ L_i^train(θ, φ_i), by parameter name; parameters that no loss depends on
            are absent.
        train: 1/L ∇φ_l L_l^train(θ, φ_l), by parameter name.
        train_loss: L_l^train(θ, φ_l), 0-d.
    """

    shared: NamedGradient
    train: dict[Language, NamedGradient]
    train_loss: dict[Language, Tensor]


@dataclass(frozen=True)
class MetaGradients(JointGradients):
    """The gradients of one outer step: those of joint training, and the meta-gradients of φ.

    Args:
        shared: As in `JointGradients`.
        train: As in `JointGradients`.
        train_loss: As in `JointGradients`.
        direct: The direct part of the meta-gradient of each φ_l, by parameter name: w_ll ∇φ_l
            L_l^val(θ', φ_l).
        indirect: The indirect part: −β ∇φ_l ⟨Δ(∇θ L_l^train(θ, φ_l)), v⟩.
        meta_loss: L_l^val(θ', φ_l), 0-d; with a look-ahead per language the mean over the θ'_i.
        meter: The meta-signal of all languages together.
        language_meter: The meta-signal of each language.
    """

    direct: dict[Language, NamedGradient]
    indirect: dict[Language, NamedGradient]
    meta_loss: dict[Language, Tensor]
    meter: MetaSignal
    language_meter: dict[Language, MetaSignal]

    @property
    def language(self) -> dict[Language, NamedGradient]:
        """The meta-gradient of each φ_l, by parameter name: direct + indirect, added up when it is asked for."""
        return {key: _sum(self.direct[key], self.indirect[key]) for key in self.direct}

    def to_dict(self) -> dict[str, object]:
        """Losses and meters as floats, without the gradients."""
        return {
            "train_loss": {key: float(value) for key, value in self.train_loss.items()},
            "meta_loss": {key: float(value) for key, value in self.meta_loss.items()},
            "meter": self.meter.to_dict(),
            "language_meter": {key: value.to_dict() for key, value in self.language_meter.items()},
        }


def _sum(left: NamedGradient, right: NamedGradient) -> NamedGradient:
    both = {**left, **right}
    return {
        name: left[name] + right[name] if name in left and name in right else both[name]
        for name in both
    }


def named(names: list[str], vector: Vector) -> NamedGradient:
    """The entries that are there, by name."""
    return {name: entry for name, entry in zip(names, vector, strict=True) if entry is not None}


def bounded(direct: Vector, indirect: Vector, bound: float) -> Vector:
    """The indirect part, scaled so that its norm is at most `bound` times that of the direct part."""
    allowed, found = norm(direct) * bound, norm(indirect)
    return scaled(
        indirect,
        torch.where(found > allowed, allowed / found.clamp_min(1e-38), torch.ones_like(found)),
    )

"""The meter of the meta-signal: how much of a meta-gradient is second-order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
    def of(cls, direct: Vector, indirect: Vector, raw: Vector | None = None) -> MetaSignal:
        """Measure the two parts.

        Args:
            direct: The direct part.
            indirect: The indirect part, as it is used.
            raw: The indirect part as it was computed, where it has been scaled since.

        Returns:
            The meter.
        """
        direct_norm, indirect_norm = norm(direct), norm(indirect)
        raw_norm = indirect_norm
        if raw is not None:
            raw_norm = norm(raw)

        return cls(
            direct_norm=direct_norm,
            indirect_norm=indirect_norm,
            cosine=cosine(dot(direct, indirect), direct_norm * indirect_norm),
            ratio=ratio(indirect_norm, direct_norm),
            raw_ratio=ratio(raw_norm, direct_norm),
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

"""The exact mixed product, by forward mode over reverse mode."""

from __future__ import annotations

import warnings

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._mixed_product import MixedProduct, MixedRows
from hf_meta_adapters.meta._second_order import second_order
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.vectors import Vector, absent, add_


class ForwardMode(MixedProduct):
    """Forward mode over reverse mode: the derivative of ∇L along w, from one ordinary pass.

    As exact as the double backward, and without a radius, where every operation of the model has a
    forward derivative.
    """

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> MixedRows:
        """Give θ the tangent w, and read the tangent of ∇L."""
        parameters = at.parameters(with_shared=with_shared)
        total = absent(parameters)

        with warnings.catch_warnings(), second_order(), forward_ad.dual_level():
            # PyTorch compiles some of its forward derivatives with torch.jit.script, which it has
            # deprecated itself.
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")

            # In place, so that the model needs no functional copy and tied weights stay tied.
            # Values do not change, and the tangents vanish with the level.
            with torch.no_grad():
                for parameter, tangent in zip(at.shared, vector, strict=True):
                    if tangent is not None:
                        dual = forward_ad.make_dual(parameter.detach().clone(), tangent)
                        parameter.copy_(dual)

            for loss in at.losses:
                slopes = at.differentiate.gradient(loss(), parameters)
                add_(total, _tangents(slopes))

        return MixedRows.of(total, at)


def _tangents(slopes: Vector) -> Vector:
    """The derivatives of the gradient along w; absent where it does not depend on θ."""
    tangents: Vector = []

    for slope in slopes:
        tangent: Tensor | None = None
        if slope is not None:
            tangent = forward_ad.unpack_dual(slope).tangent

        # a copy, since the tangent itself ends with the level
        tangents.append(None if tangent is None else tangent.clone())

    return tangents

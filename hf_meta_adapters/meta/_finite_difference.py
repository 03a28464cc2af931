"""The mixed product as a difference of ordinary gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._mixed_product import MixedProduct, MixedRows
from hf_meta_adapters.meta._train_pass import TrainPass, loss_and_gradient
from hf_meta_adapters.meta.vectors import Vector, add_, norm, scaled

Scheme: TypeAlias = Literal["central", "one_sided"]


class FiniteDifference(MixedProduct):
    """A difference of ordinary gradients: (∇L(θ + εw) − ∇L(θ − εw)) / 2ε.

    Or, one-sided, (∇L(θ + εw) − ∇L(θ)) / ε. It takes ordinary passes, with the gradients of the
    requested rows only, and so works with fused attention, gradient checkpointing, compiled models
    and sharded parameters. The radius is a distance in the space of θ: ε = radius / ‖w‖.

    Args:
        scheme: `"central"` (error of order ε², two passes) or `"one_sided"` (order ε, one pass: the
            gradient at θ is that of the training pass).
        radius: ‖εw‖; `None` derives it from the precision.
        precision: The dtype in which the passes are evaluated, if it is lower than that of θ, as
            under autocast.
    """

    def __init__(
        self,
        scheme: Scheme = "central",
        radius: float | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__(needs_train_gradient=scheme == "one_sided")
        self._scheme = scheme
        self._radius = radius
        self._precision = precision

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> MixedRows:
        """Take the difference."""
        parameters = at.parameters(with_shared=with_shared)
        epsilon = self._distance(vector, anchor)

        try:
            anchor.move(vector, epsilon)
            _, ahead = loss_and_gradient(at.losses, parameters, at.differentiate)

            if self._scheme == "central":
                anchor.move(vector, -epsilon)
                _, behind = loss_and_gradient(at.losses, parameters, at.differentiate)
                span = 2 * epsilon
            else:
                behind = at.gradient(with_shared=with_shared)
                span = epsilon
        finally:
            anchor.restore()

        return _quotient(ahead, behind, span, at)

    @contextmanager
    def along(self, vector: Vector, anchor: Anchor) -> Iterator[Callable[[TrainPass], MixedRows]]:
        """One-sided, θ moves once for all languages."""
        if self._scheme == "central":
            with super().along(vector, anchor) as product:
                yield product
            return

        epsilon = self._distance(vector, anchor)

        def product_there(at: TrainPass) -> MixedRows:
            _, ahead = loss_and_gradient(at.losses, at.language, at.differentiate)
            return _quotient(ahead, at.product_gradient, epsilon, at)

        anchor.move(vector, epsilon)
        yield product_there

    def _distance(self, vector: Vector, anchor: Anchor) -> Tensor:
        """ε = radius / ‖w‖, 0-d."""
        # w = 0 has the product 0. A length of 1 then keeps 0/0 away without making the host wait
        # for the value.
        length = norm(vector)
        length = torch.where(length > 0, length, torch.ones_like(length))
        return self._radius_for(anchor.start[0].dtype) / length

    def _radius_for(self, dtype: torch.dtype) -> float:
        """The radius that balances rounding against curvature: ½ u^(1/3), or one-sided u^(1/2).

        u is the unit of rounding. The radius is a distance in the space of θ and does not grow with
        ‖θ‖: what counts is how far the function moves, and a model of another size moves as far by
        a step of the same length along its gradient.
        """
        if self._radius is not None:
            return self._radius

        unit = torch.finfo(dtype).eps
        if self._precision is not None:
            unit = max(unit, torch.finfo(self._precision).eps)

        if self._scheme == "central":
            return float(0.5 * unit ** (1 / 3))
        return float(unit**0.5)


def _quotient(ahead: Vector, behind: Vector, span: Tensor, at: TrainPass) -> MixedRows:
    """The difference of two gradients over the distance between them; `ahead` is overwritten."""
    add_(ahead, behind, -1.0)
    return MixedRows.of(scaled(ahead, 1 / span), at)

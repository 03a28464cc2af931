"""Mixed products: d/dε ∇L(θ + ε w, φ) at ε = 0, for the rows of φ and, on request, of θ.

The rows of φ are ∇φ⟨∇θ L, w⟩, the second-order part of the meta-gradient; those of θ are the
Hessian-vector product that carries v through several virtual steps. Everything second-order in the
package is in this file.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._second_order import check_graph, second_order
from hf_meta_adapters.meta._train_pass import TrainPass, loss_and_gradient
from hf_meta_adapters.meta.vectors import Vector, add_, dot, norm, scaled


class MixedProduct(ABC):
    """A way to get the mixed product of one language at the present θ."""

    needs_graph: ClassVar[bool] = False
    """Whether the training pass should keep the graph of its gradient."""

    @property
    def needs_train_gradient(self) -> bool:
        """Whether the training pass should keep its gradient of φ."""
        return False

    @abstractmethod
    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> tuple[Vector, Vector]:
        """Compute the product.

        Args:
            at: The training pass of the language at the present θ.
            vector: w, one entry per parameter of θ.
            anchor: What moves θ; a product leaves θ where it found it.
            with_shared: Whether the rows of θ are wanted too.

        Returns:
            The rows of φ, and those of θ (all `None` when they are not wanted).
        """


@dataclass(frozen=True)
class Exact(MixedProduct):
    """Double backward of the training loss alone: ∇⟨∇θ L, w⟩ by reverse mode over reverse mode.

    Equal to backpropagation through the unrolled step up to rounding. It costs about 1.3 ordinary
    passes where the training pass kept its graph, and one more where it did not.
    """

    needs_graph: ClassVar[bool] = True

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> tuple[Vector, Vector]:
        """Differentiate ⟨∇θ L, w⟩."""
        wanted = [*at.language, *(at.shared if with_shared else [])]
        total: Vector = [None] * len(wanted)
        with second_order():
            if at.graph is not None:
                add_(total, _gradient_if_any(dot(at.graph, vector), wanted, at))
            else:
                for loss in at.losses:
                    slopes = at.differentiate.gradient(loss(), at.shared, create_graph=True)
                    check_graph(slopes)
                    add_(total, _gradient_if_any(dot(slopes, vector), wanted, at))
        return _split(total, at)


@dataclass(frozen=True)
class FiniteDifference(MixedProduct):
    """A difference of ordinary gradients: (∇L(θ + εw) − ∇L(θ − εw)) / 2ε, or (∇L(θ + εw) − ∇L(θ)) / ε.

    Ordinary passes only, and in them only the gradients that are wanted, so it works with fused
    attention, gradient checkpointing, compiled models and sharded parameters. The radius is a
    distance in the space of θ: ε = radius / ‖w‖.

    Args:
        scheme: `"central"` (error of order ε², two passes) or `"one_sided"` (order ε, one pass: the
            gradient at θ is that of the training pass).
        radius: ‖εw‖; `None` derives it from the precision.
        precision: In what the passes are evaluated, if that is less than what θ is stored in, as
            under autocast.
    """

    scheme: str = "central"
    radius: float | None = None
    precision: torch.dtype | None = None

    @property
    def needs_train_gradient(self) -> bool:
        """Whether one end of the difference is the gradient at θ itself."""
        return self.scheme == "one_sided"

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> tuple[Vector, Vector]:
        """Take the difference."""
        wanted = [*at.language, *(at.shared if with_shared else [])]
        length = norm(vector)
        # w = 0 has the product 0; a unit length then keeps 0/0 away without asking the device for
        # its value
        length = torch.where(length > 0, length, torch.ones_like(length))
        epsilon = self._radius(at) / length
        try:
            anchor.move(vector, epsilon)
            _, ahead = loss_and_gradient(at.losses, wanted, at.differentiate)
            if self.scheme == "central":
                anchor.move(vector, -epsilon)
                _, behind = loss_and_gradient(at.losses, wanted, at.differentiate)
                span = 2 * epsilon
            else:
                behind = [*at.language_gradient, *(at.shared_gradient if with_shared else [])]
                span = epsilon
        finally:
            anchor.restore()
        add_(ahead, behind, -1.0)
        return _split(scaled(ahead, 1 / span), at)

    def _radius(self, at: TrainPass) -> Tensor | float:
        """The radius that balances rounding against curvature: ½ ε^(1/3), one-sided ε^(1/2), ε that of the passes.

        It is a distance in the space of θ and does not grow with ‖θ‖: what counts is how far the
        function moves, and a model of another size moves as far by a step of the same length along
        its gradient.
        """
        if self.radius is not None:
            return self.radius
        unit = max(
            torch.finfo(kind).eps
            for kind in (at.shared[0].dtype, self.precision)
            if kind is not None
        )
        return float(0.5 * unit ** (1 / 3) if self.scheme == "central" else unit**0.5)


@dataclass(frozen=True)
class ForwardMode(MixedProduct):
    """Forward mode over reverse mode: the derivative of ∇L along w, carried beside one ordinary pass.

    As exact as the double backward, without a radius, where every operation of the model has a
    forward derivative.
    """

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> tuple[Vector, Vector]:
        """Give θ the tangent w and read the tangent of ∇L."""
        wanted = [*at.language, *(at.shared if with_shared else [])]
        total: Vector = [None] * len(wanted)
        with warnings.catch_warnings(), second_order(), forward_ad.dual_level():
            # PyTorch compiles some of its forward derivatives with torch.jit.script, which it has
            # deprecated itself.
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
            # In place, so that the model needs no functional copy and tied weights stay tied.
            # Values do not change, and the tangents vanish with the level.
            with torch.no_grad():
                for parameter, tangent in zip(at.shared, vector, strict=True):
                    if tangent is not None:
                        parameter.copy_(forward_ad.make_dual(parameter.detach().clone(), tangent))
            for loss in at.losses:
                slopes = at.differentiate.gradient(loss(), wanted)
                add_(total, [None if slope is None else _tangent(slope) for slope in slopes])
        return _split(total, at)


@dataclass(frozen=True)
class FirstOrder(MixedProduct):
    """Zero: the indirect part is dropped. An ablation, not an approximation."""

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> tuple[Vector, Vector]:
        """Return nothing."""
        return [None] * len(at.language), [None] * len(at.shared)


def _gradient_if_any(value: Tensor, wanted: list[Tensor], at: TrainPass) -> Vector:
    return at.differentiate.gradient(value, wanted) if value.requires_grad else [None] * len(wanted)


def _tangent(value: Tensor) -> Tensor | None:
    tangent = forward_ad.unpack_dual(value).tangent
    return None if tangent is None else tangent.clone()


def _split(rows: Vector, at: TrainPass) -> tuple[Vector, Vector]:
    """The rows of φ and those of θ."""
    count = len(at.language)
    return rows[:count], rows[count:] if len(rows) > count else [None] * len(at.shared)

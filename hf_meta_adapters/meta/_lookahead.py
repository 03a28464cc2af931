"""Look-aheads: at which θ' the validation losses are differentiated.

    "per_language"   θ'_i = θ − β Δ(g_i), a step on language i alone: the paper's. L² validation passes per outer step.
    "shared"         θ' = θ − β Δ(1/L Σ g_i), one step on all languages. L passes. Close to the former while β is small.
    "none"           θ' = θ. L passes; the virtual step is not taken.

The step may be repeated (`inner_steps`): θ_{k+1} = θ_k − β Δ(g(θ_k)). The validation gradient v at
the end is then carried back through the steps by v ← v − β H(θ_k) D_k v, with H the Hessian of the
training loss and D = ∂Δ/∂g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._products import MixedProduct
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._train_pass import TrainPass, train_pass
from hf_meta_adapters.meta.vectors import Vector, add_, times


@dataclass
class Ahead:
    """What the validation losses say at θ'.

    Args:
        value: The validation loss of each language there, 0-d.
        shared: v = Σ_j w_j ∇θ L_j^val(θ', φ_j).
        direct: w_i ∇φ_i L_i^val(θ', φ_i), for the languages asked for.
    """

    value: dict[Language, Tensor]
    shared: Vector
    direct: dict[Language, Vector]


def validation_pass(
    losses: Mapping[Language, Sequence[Loss]],
    weights: Mapping[Language, float],
    shared: Sequence[Tensor],
    language: Mapping[Language, Sequence[Tensor]],
    *,
    direct_for: Sequence[Language],
    differentiate: Differentiate,
    reduce: Reduce,
) -> Ahead:
    """Differentiate the weighted validation losses at the present θ, one language after the other.

    Args:
        losses: The micro-batches of each language.
        weights: w_j; a language whose weight is zero or that is missing is not evaluated.
        shared: θ.
        language: φ of each language.
        direct_for: The languages whose φ is differentiated too.
        differentiate: Evaluates and differentiates a loss.
        reduce: Sums over processes.

    Returns:
        The values and gradients, summed over processes.
    """
    total: Vector = [None] * len(shared)
    values: dict[Language, Tensor] = {}
    direct: dict[Language, Vector] = {key: [None] * len(language[key]) for key in direct_for}
    for key, weight in weights.items():
        if weight == 0:
            continue
        own = list(language[key]) if key in direct else []
        for loss in losses[key]:
            value, entries = differentiate(loss, [*shared, *own])
            add_(total, entries[: len(shared)], weight)
            if own:
                add_(direct[key], entries[len(shared) :], weight)
            del entries  # before the next pass needs the room
            values[key] = values[key] + value if key in values else value
    parts = [(direct[key], language[key]) for key in direct]
    reduce((total, shared), *parts, (list(values.values()), list(values.values())))
    return Ahead(values, total, direct)


@dataclass
class Trajectory:
    """The virtual steps of one language.

    Args:
        passes: The training pass at each θ_k.
        slopes: The diagonal of ∂Δ/∂g at each θ_k; `None` is the identity.
        points: θ_k for each k; `None` stands for the θ that the trajectory starts from.
    """

    passes: list[TrainPass]
    slopes: list[Vector | None]
    points: list[list[Tensor] | None]


def look_ahead(
    losses: Sequence[Loss],
    shared: Sequence[Tensor],
    language: Sequence[Tensor],
    *,
    anchor: Anchor,
    inner: InnerOptimizer,
    learning_rate: float,
    steps: int,
    differentiate: Differentiate,
    keep_graph: bool,
    reduce: Reduce,
) -> tuple[Trajectory, Vector]:
    """Take the virtual steps of one language and leave θ at θ'.

    Args:
        losses: The micro-batches of the training loss.
        shared: θ.
        language: φ of the language.
        anchor: Moves θ.
        inner: Δ.
        learning_rate: β.
        steps: K.
        differentiate: Evaluates and differentiates a loss.
        keep_graph: Keep the graph of ∇θ; only of use with one step.
        reduce: Sums over processes.

    Returns:
        The trajectory, and the gradient g at its start, summed over processes.
    """
    trajectory = Trajectory([], [], [])
    first: Vector = []
    for step in range(steps):
        keep = keep_graph and steps == 1
        here = train_pass(losses, shared, language, differentiate=differentiate, keep_graph=keep)
        (slope,) = reduce.summed((here.shared_gradient, shared))
        first = first or slope
        move, diagonal = inner.displacement(slope)
        trajectory.passes.append(here)
        trajectory.slopes.append(diagonal)
        trajectory.points.append(anchor.base() if step else None)
        anchor.move(move, -learning_rate)
        if step + 1 < steps:
            anchor.rebase(anchor.here())
    return trajectory, first


def carry_back(
    trajectory: Trajectory,
    ahead: Vector,
    *,
    product: MixedProduct,
    anchor: Anchor,
    learning_rate: float,
    reduce: Reduce,
) -> Vector:
    """Carry v from θ' back to φ: −β Σ_k ∇φ⟨g(θ_k), D_k v_{k+1}⟩.

    Args:
        trajectory: The virtual steps.
        ahead: v at θ'.
        product: The mixed product.
        anchor: Moves θ; at the end θ is where the trajectory began.
        learning_rate: β.
        reduce: Sums over processes, for the Hessian-vector products between virtual steps.

    Returns:
        The indirect part of the meta-gradient of φ, of this process.
    """
    vector = (
        ahead
        if len(trajectory.passes) == 1
        else [None if entry is None else entry.clone() for entry in ahead]
    )
    total: Vector = [None] * len(trajectory.passes[0].language)
    for step in reversed(range(len(trajectory.passes))):
        anchor.rebase(trajectory.points[step])
        rows, hessian = product(
            trajectory.passes[step],
            times(vector, trajectory.slopes[step]),
            anchor,
            with_shared=step > 0,
        )
        add_(total, rows, -learning_rate)
        if step:
            (whole,) = reduce.summed((hessian, trajectory.passes[0].shared))
            add_(vector, whole, -learning_rate)
    return total

"""The virtual steps of one language, forward to θ' and back to φ.

The step may be repeated (`inner_steps`): θ_{k+1} = θ_k − β Δ(g(θ_k)). The validation gradient v at
the end is then carried back through the steps by v ← v − β H(θ_k) D_k v, with H the Hessian of the
training loss and D = ∂Δ/∂g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.vectors import Vector, absent, add_, mapped, present, times


@dataclass(frozen=True)
class VirtualStep:
    """One step of a trajectory, from θ_k to θ_{k+1}.

    Args:
        train: The training pass at θ_k.
        diagonal: The diagonal of ∂Δ/∂g there; `None` is the identity.
        point: θ_k; `None` stands for the θ at which the outer step begins.
    """

    train: TrainPass
    diagonal: Vector | None
    point: list[Tensor] | None = None


def look_ahead(problem: Problem, key: Language, anchor: Anchor) -> tuple[list[VirtualStep], Vector]:
    """Take the virtual steps of one language, and leave θ at θ'.

    Args:
        problem: The outer step.
        key: The language.
        anchor: Moves θ.

    Returns:
        The steps, and the gradient g of the first one, summed over processes.
    """
    count = problem.options.inner_steps
    # A graph is recorded at one θ; with several steps, the double backward records it anew.
    keep_graph = problem.product.needs_graph and count == 1 and key in problem.mixed

    steps: list[VirtualStep] = []
    first_gradient: Vector = []
    for number in range(count):
        train = problem.train_pass(key, keep_graph=keep_graph)
        (gradient,) = problem.reduce.summed((train.shared_gradient, problem.shared))
        if number == 0:
            first_gradient = gradient

        move, diagonal = problem.inner.displacement(gradient)
        point = anchor.base() if number > 0 else None
        steps.append(VirtualStep(train, diagonal, point))

        anchor.move(move, -problem.learning_rate)
        if number + 1 < count:
            anchor.rebase(anchor.here())

    return steps, first_gradient


def indirect_part(
    problem: Problem, steps: Sequence[VirtualStep], validation_gradient: Vector, anchor: Anchor
) -> Vector:
    """Carry v from θ' back to φ: −β Σ_k ∇φ⟨g(θ_k), D_k v_{k+1}⟩.

    Args:
        problem: The outer step.
        steps: The virtual steps of the language.
        validation_gradient: v at θ'.
        anchor: Moves θ; afterwards θ is where the outer step began.

    Returns:
        The indirect part of the meta-gradient of φ, summed over processes.
    """
    anchor.rebase()
    phi = steps[0].train.language
    total = absent(phi)
    if problem.options.meta_gradient == "first_order" or not present(validation_gradient):
        return total

    vector = validation_gradient
    if len(steps) > 1:
        # It changes below, and v is the caller's.
        vector = mapped(vector, Tensor.clone)

    for number in reversed(range(len(steps))):
        step = steps[number]
        anchor.rebase(step.point)
        rows = problem.product(
            step.train, times(vector, step.diagonal), anchor, with_shared=number > 0
        )
        add_(total, rows.language, -problem.learning_rate)

        # v_k = v_{k+1} − β H(θ_k) D_k v_{k+1}
        if number > 0:
            (hessian_product,) = problem.reduce.summed((rows.shared, problem.shared))
            add_(vector, hessian_product, -problem.learning_rate)

    problem.reduce((total, phi))
    return total

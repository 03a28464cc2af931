"""One look-ahead for all languages: θ' = θ − β Δ(1/L Σ_i g_i), or θ' = θ."""

from __future__ import annotations

from collections.abc import Sequence

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._collected import Collected
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta._trajectory import VirtualStep, indirect_part
from hf_meta_adapters.meta._validation_pass import ValidationPass
from hf_meta_adapters.meta.vectors import Vector, absent


def shared_lookahead(problem: Problem, targets: Sequence[Language], anchor: Anchor) -> Collected:
    """A mean training gradient, at most one move, validation, then the product of each language.

    Args:
        problem: The outer step.
        targets: The languages whose meta-gradients are wanted.
        anchor: Moves θ.

    Returns:
        The gradients and losses.
    """
    collected = Collected.empty(problem)
    train_passes = {key: _train_pass(collected, problem, key) for key in problem.trained}

    diagonal: Vector | None = None
    if problem.options.lookahead == "shared" and train_passes:
        move, diagonal = problem.inner.displacement(collected.shared)
        anchor.move(move, -problem.learning_rate)

    # Every language shares the step, and so its diagonal: that of the mean gradient.
    def add_target(key: Language, validation: ValidationPass) -> None:
        collected.direct[key] = validation.direct[key]
        collected.indirect[key] = absent(problem.language[key])

        # Of a language without a training loss, nothing runs through the virtual step.
        if key in train_passes:
            step = VirtualStep(train_passes.pop(key), diagonal)
            v = validation.shared_gradient
            collected.indirect[key] = indirect_part(problem, [step], v, anchor)

    if not targets:
        return collected

    if problem.options.meta_languages != "others":
        # One v serves every language: the weights are the same for all.
        validation = problem.validation_pass(targets[0], targets)
        collected.add_validation(validation, 1.0)
        for key in targets:
            add_target(key, validation)
    else:
        # Each language has its own v: one at a time, so that memory does not grow with the
        # languages.
        point = anchor.here()
        for key in targets:
            anchor.rebase(point)
            validation = problem.validation_pass(key, [key])
            collected.add_validation(validation, 1 / len(targets))
            anchor.rebase()
            add_target(key, validation)

    return collected


def _train_pass(collected: Collected, problem: Problem, key: Language) -> TrainPass:
    """Add the training pass of a language to the mean, and return what is left for its product."""
    train = problem.train_pass(key)
    (gradient,) = problem.reduce.summed((train.shared_gradient, problem.shared))
    collected.add_train(problem, key, train, gradient)

    # ∇θ is in the mean now: memory must not grow with the languages.
    return train.without_gradients(keep_product=problem.product.needs_train_gradient)

"""One look-ahead for all languages: θ' = θ − β Δ(1/L Σ_i g_i), or θ' = θ."""

from __future__ import annotations

from collections.abc import Sequence

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._collected import Collected
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta._validation_pass import ValidationPass
from hf_meta_adapters.meta.vectors import Vector, absent, present, scaled, times


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

    if not targets:
        return collected

    if problem.options.meta_languages != "others":
        # One v serves every language: the weights are the same for all.
        validation = problem.validation_pass(targets[0], targets)
        collected.add_validation(validation, 1.0)
        _add_targets(collected, problem, targets, train_passes, validation, diagonal, anchor)
    else:
        # Each language has its own v: one at a time, so that memory does not grow with the
        # languages.
        point = anchor.here()
        for key in targets:
            anchor.rebase(point)
            validation = problem.validation_pass(key, [key])
            collected.add_validation(validation, 1 / len(targets))
            _add_targets(collected, problem, [key], train_passes, validation, diagonal, anchor)

    return collected


def _add_targets(
    collected: Collected,
    problem: Problem,
    targets: Sequence[Language],
    train_passes: dict[Language, TrainPass],
    validation: ValidationPass,
    diagonal: Vector | None,
    anchor: Anchor,
) -> None:
    """Add the parts of languages for which v is the same: −β ∇φ⟨g_i, D v⟩ is the indirect one."""
    # Every language shares the step, and so its diagonal: that of the mean gradient.
    vector = times(validation.shared_gradient, diagonal)
    anchor.start_from()

    for key in targets:
        collected.direct[key] = validation.direct[key]
        collected.indirect[key] = absent(problem.language[key])
    if problem.options.meta_gradient == "first_order" or not present(vector):
        return

    with problem.product.along(vector, anchor) as product:
        for key in targets:
            # Of a language without a training loss, nothing runs through the virtual step.
            if key in problem.mixed:
                rows = product(train_passes.pop(key))
                rate = problem.learning_rate * problem.mixed_factor
                indirect = scaled(rows.language, -rate)
                problem.reduce((indirect, problem.language[key]))
                collected.indirect[key] = indirect


def _train_pass(collected: Collected, problem: Problem, key: Language) -> TrainPass:
    """Add the training pass of a language to the mean, and return what is left for its product."""
    train = problem.train_pass(key)
    (gradient,) = problem.reduce.summed((train.shared_gradient, problem.shared))
    collected.add_train(problem, key, train, gradient)

    # ∇θ is in the mean now: memory must not grow with the languages.
    keep_product = problem.product.needs_train_gradient and key in problem.mixed
    return train.without_gradients(keep_product=keep_product)

"""The look-ahead of the paper: a virtual step for each language, θ'_i = θ − β Δ(g_i)."""

from __future__ import annotations

from collections.abc import Sequence

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._collected import Collected
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._trajectory import indirect_part, look_ahead
from hf_meta_adapters.meta.vectors import absent, add_, scaled


def per_language_lookahead(
    problem: Problem, targets: Sequence[Language], anchor: Anchor
) -> Collected:
    """Step, validate, carry v back; then the next language.

    L² validation passes, or L times as many as are drawn for a language. A target that is not
    trained on takes no step of its own; its direct part is the mean over the steps of all training
    languages, each of which is then taken.

    Args:
        problem: The outer step.
        targets: The languages whose meta-gradients are wanted.
        anchor: Moves θ.

    Returns:
        The gradients and losses.
    """
    collected = Collected.empty(problem)
    idle = [key for key in targets if key not in problem.train]
    for key in idle:
        collected.direct[key] = absent(problem.language[key])
        collected.indirect[key] = absent(problem.language[key])

    for key in problem.train:
        if key in targets or idle:
            _add_language(collected, problem, key, targets, anchor)
    return collected


def _add_language(
    collected: Collected,
    problem: Problem,
    key: Language,
    targets: Sequence[Language],
    anchor: Anchor,
) -> None:
    # A separate function, so that no gradient and no graph of the language outlives it.
    anchor.rebase()
    if key not in problem.trained:
        # Nothing to step on: θ'_i = θ, and nothing of φ runs through the virtual step.
        if key in targets:
            validation = problem.validation_pass(key, [key])
            collected.add_validation(validation, 1 / len(problem.train))

            collected.direct[key] = validation.direct[key]
            collected.indirect[key] = absent(problem.language[key])
        return

    steps, train_gradient = look_ahead(problem, key, anchor)

    idle = [other for other in targets if other not in problem.train]
    validation = problem.validation_pass(key, [key, *idle])
    collected.add_validation(validation, 1 / len(problem.train))
    for other in idle:
        add_(collected.direct[other], validation.direct[other], 1 / len(problem.trained))

    collected.add_train(problem, key, steps[0].train, train_gradient)
    if key in targets:
        collected.direct[key] = validation.direct[key]
        collected.indirect[key] = absent(problem.language[key])
        if key in problem.mixed:
            part = indirect_part(problem, steps, validation.shared_gradient, anchor)
            collected.indirect[key] = scaled(part, problem.mixed_factor)

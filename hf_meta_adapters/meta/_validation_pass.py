"""The validation pass: the gradient of the weighted validation losses at the present θ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta.vectors import Vector, absent, add_


@dataclass(frozen=True)
class ValidationPass:
    """What the validation losses say at θ'.

    Args:
        losses: The validation loss of each language there, 0-d.
        shared_gradient: v = Σ_j w_j ∇θ L_j^val(θ', φ_j).
        direct: w_i ∇φ_i L_i^val(θ', φ_i), for the languages asked for.
    """

    losses: dict[Language, Tensor]
    shared_gradient: Vector
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
) -> ValidationPass:
    """Differentiate the weighted validation losses at the present θ, one language after the other.

    Args:
        losses: The micro-batches of each language.
        weights: w_j; a language without a weight, or with the weight zero, is not evaluated.
        shared: θ.
        language: φ of each language.
        direct_for: The languages whose φ is differentiated too.
        differentiate: Evaluates and differentiates a loss.
        reduce: Sums over processes.

    Returns:
        The values and gradients, summed over processes.
    """
    values: dict[Language, Tensor] = {}
    shared_gradient = absent(shared)
    direct = {key: absent(language[key]) for key in direct_for}

    for key, weight in weights.items():
        if weight == 0:
            continue

        phi = list(language[key]) if key in direct else []
        for loss in losses[key]:
            value, gradient = differentiate(loss, [*shared, *phi])
            add_(shared_gradient, gradient[: len(shared)], weight)
            if phi:
                add_(direct[key], gradient[len(shared) :], weight)
            # before the next pass needs the room
            del gradient

            if key in values:
                value = values[key] + value
            values[key] = value

    # One message for everything that is summed over processes. The sums replace the entries in
    # place.
    total_values: Vector = list(values.values())
    reduce(
        (shared_gradient, shared),
        *((direct[key], language[key]) for key in direct),
        (total_values, list(values.values())),
    )
    return ValidationPass(values, shared_gradient, direct)

"""The gradient of joint training: no virtual step, no validation text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Language, Loss, MicroBatches, Parameters
from hf_meta_adapters.meta._combination import Combination
from hf_meta_adapters.meta._combining import combining
from hf_meta_adapters.meta._differentiating import differentiating
from hf_meta_adapters.meta._inputs import check_one_weighing, check_trained, every_parameter
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._replay import listed, replayed, with_loss, without_loss
from hf_meta_adapters.meta._train_pass import loss_and_gradient
from hf_meta_adapters.meta.result import JointGradients, named
from hf_meta_adapters.meta.step_weights import StepWeights, shares_of
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.vectors import Vector, absent, add_


def joint_gradient(
    train_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    surgery: Surgery | None = None,
    step_weights: StepWeights | None = None,
) -> JointGradients:
    """Compute the gradient of 1/L Σ_i L_i^train(θ, φ_i) for θ and every φ_i.

    The mean runs over the languages that have a loss, one after the other, so that a single graph
    is alive at a time.

    Args:
        train_losses: L_i^train of each language, as for `meta_gradient`; an empty sequence for a
            language without one.
        shared: θ, by name.
        language: φ_i of each language, by name.
        all_reduce: Sums a flat tensor over processes in place.
        loss_scale: A factor, 0-d, applied to the losses of backward passes and divided out of
            everything that is returned; fp16 needs it.
        surgery: Makes `.shared` a weighted sum in place of the mean, Σ_i w_i ∇θ L_i^train; the same
            object in every step.
        step_weights: Weights of the losses in the gradient of θ, in place of 1/L.

    Returns:
        The gradients and losses.

    Raises:
        ConfigurationError: If a parameter is frozen, there is no θ for the surgery, a language has
            no weight, or both surgery and weights are given.

    Example:
        >>> import torch
        >>> theta = torch.tensor(1.0, requires_grad=True)
        >>> phi = torch.tensor(2.0, requires_grad=True)
        >>> loss = lambda: theta * phi
        >>> step = joint_gradient({"sw": loss}, {"theta": theta}, {"sw": {"phi": phi}})
        >>> step.shared["theta"].item(), step.train["sw"]["phi"].item()
        (2.0, 1.0)
    """
    check_trained(shared, language)
    check_one_weighing(surgery, step_weights)

    theta = list(shared.values())
    phi = {key: list(parameters.values()) for key, parameters in language.items()}
    reduce = Reduce(all_reduce)

    trained = with_loss(train_losses)
    share = 1 / max(len(trained), 1)
    combination = combining(surgery, shared, trained, reduce, of=len(train_losses), summed=False)
    shares = shares_of(step_weights, shared, trained)
    shared_gradient = absent(theta)
    weights: dict[Language, Tensor] = {}
    products: dict[Language, Tensor] = {}
    gradients: dict[Language, Vector] = {}
    losses: dict[Language, Tensor] = {}

    micro_batches = {key: _micro_batches(train_losses[key], combination, theta) for key in trained}
    with differentiating(every_parameter(shared, language), loss_scale) as differentiate:
        for key in trained:
            losses[key], gradient = loss_and_gradient(
                micro_batches[key], [*theta, *phi[key]], differentiate
            )

            if combination is None:
                add_(shared_gradient, gradient[: len(theta)], shares.of[key])
            else:
                combination.add(key, gradient[: len(theta)])

            product = shares.product(gradient[: len(theta)], losses[key])
            if product is not None:
                products[key] = product

            gradients[key] = absent(phi[key])
            add_(gradients[key], gradient[len(theta) :], share)

            # before the next pass needs the room
            del gradient

        if combination is not None:
            shared_gradient, weights = combination.result(
                lambda key: loss_and_gradient(micro_batches[key], theta, differentiate)[1]
            )

    # One message for everything that is summed over processes. The sums replace the entries in
    # place.
    values: Vector = [*losses.values(), *products.values()]
    own = [(shared_gradient, theta)] if combination is None else []
    reduce(
        *own,
        *((gradients[key], phi[key]) for key in gradients),
        (values, [*losses.values(), *products.values()]),
    )

    return JointGradients(
        shared=named(list(shared), shared_gradient),
        train={key: named(list(language[key]), gradients[key]) for key in gradients},
        train_loss=losses,
        without_loss=without_loss(train=train_losses),
        weights=weights,
        alignment=shares.alignment(products, shared_gradient),
    )


def _micro_batches(
    losses: MicroBatches, combination: Combination | None, theta: Sequence[Tensor]
) -> Sequence[Loss]:
    """The micro-batches of a language; their random numbers are replayed if they pass twice."""
    if combination is not None and combination.passes_twice:
        return replayed(losses, theta[0].device)
    return listed(losses)

"""The gradient of joint training: no virtual step, no validation text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hf_meta_adapters._typing import Language, MicroBatches, Parameters
from hf_meta_adapters.meta._differentiate import differentiating
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._replay import listed
from hf_meta_adapters.meta._train_pass import loss_and_gradient
from hf_meta_adapters.meta.result import JointGradients, named
from hf_meta_adapters.meta.vectors import Vector, add_


def joint_gradient(
    train_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    all_reduce: Callable[[Tensor], None] | None = None,
    loss_scale: Tensor | None = None,
) -> JointGradients:
    """Compute the gradient of 1/L Σ_i L_i^train(θ, φ_i) for θ and every φ_i, one language after the other.

    Args:
        train_losses: L_i^train of each language, as for `meta_gradient`.
        shared: θ, by name.
        language: φ_i of each language, by name.
        all_reduce: Sums a flat tensor over processes in place.
        loss_scale: A factor, 0-d, of what goes backward, divided out of all that is returned; as
            fp16 needs it.

    Returns:
        The gradients and losses.

    Example:
        >>> import torch
        >>> theta, phi = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
        >>> found = joint_gradient({"sw": lambda: theta * phi}, {"theta": theta}, {"sw": {"phi": phi}})
        >>> found.shared["theta"].item(), found.train["sw"]["phi"].item()
        (2.0, 1.0)
    """
    share, reduce = 1 / len(train_losses), Reduce(all_reduce)
    total: Vector = [None] * len(shared)
    own: dict[Language, Vector] = {}
    values: dict[Language, Tensor] = {}
    every = [*shared.values(), *(value for given in language.values() for value in given.values())]
    with differentiating(every, loss_scale) as differentiate:
        for key, losses in train_losses.items():
            wanted = [*shared.values(), *language[key].values()]
            values[key], slope = loss_and_gradient(listed(losses), wanted, differentiate)
            add_(total, slope[: len(shared)], share)
            own[key] = [None] * len(language[key])
            add_(own[key], slope[len(shared) :], share)
            del slope  # before the next pass needs the room
    parts = [(own[key], list(language[key].values())) for key in own]
    reduce((total, list(shared.values())), *parts, (list(values.values()), list(values.values())))
    return JointGradients(
        shared=named(list(shared), total),
        train={key: named(list(language[key]), vector) for key, vector in own.items()},
        train_loss=values,
    )

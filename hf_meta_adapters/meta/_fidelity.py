"""How close a cheap setting of the outer step is to the paper's gradient, measured on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, MicroBatches, Parameters
from hf_meta_adapters.meta._gradient import meta_gradient
from hf_meta_adapters.meta._replay import Replay, listed
from hf_meta_adapters.meta.vectors import Vector, dot, is_sharded, norm


def fidelity(
    train_losses: Mapping[Language, MicroBatches],
    meta_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    **options: Any,
) -> Tensor:
    """The cosine between the meta-gradient of a setting and the exact one with a look-ahead per language.

        cos(d, e) = ⟨d, e⟩ / (‖d‖ ‖e‖),    d, e: the meta-gradients of all φ_l, one after the other

    Both are taken of the same losses with the same random numbers, and where the setting draws
    validation languages, of the same draw. Where θ is sharded over processes, central finite
    differences stand for the exact one: there is no second derivative then.

    Args:
        train_losses: As for `meta_gradient`.
        meta_losses: As for `meta_gradient`.
        shared: As for `meta_gradient`.
        language: As for `meta_gradient`.
        **options: The setting: all other arguments of `meta_gradient`.

    Returns:
        The cosine, 0-d; 0 if one of the two is zero.

    Raises:
        RuntimeError: If an operation of the losses has no second derivative.

    Example:
        >>> theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> loss = lambda: (theta * phi).square().sum()
        >>> given = {"en": loss}, {"en": loss}, {"w": theta}, {"en": {"a": phi}}
        >>> fidelity(*given, inner_learning_rate=0.1, meta_gradient="finite_difference").round(decimals=3)
        tensor(1.)
    """
    device = next(value.device for own in (shared, *language.values()) for value in own.values())
    train, meta = (
        {
            key: [Replay(loss, device).fixed() for loss in listed(given)]
            for key, given in several.items()
        }
        for several in (train_losses, meta_losses)
    )
    paper = {**options, "meta_gradient": "exact", "lookahead": "per_language", "cpu_offload": False}
    if any(is_sharded(parameter) for parameter in shared.values()):
        paper |= {"meta_gradient": "finite_difference", "finite_difference_scheme": "central"}
        paper["finite_difference_radius"] = None
    with torch.compiler.set_stance(
        "force_eager"
    ):  # compiled dropout draws other masks, and `exact` is not compiled
        found, truth = (
            meta_gradient(train, meta, shared, language, **each).language
            for each in (options, paper)
        )
    pairs = [(found[key][name], truth[key][name]) for key in truth for name in truth[key]]
    left: Vector = [pair[0] for pair in pairs]
    right: Vector = [pair[1] for pair in pairs]
    product = norm(left) * norm(right)
    return torch.where(
        product > 0, dot(left, right).to(product) / product.clamp_min(1e-38), product
    )

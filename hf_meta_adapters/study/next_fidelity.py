"""How close settings of `lookahead="next"` come to the exact derivative of the optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Keywords, Language, Parameters
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.next_step import next_step

__all__ = ["cosine", "flat_gradients", "next_fidelity"]

_EXACT = {"meta_gradient": "exact"}


def next_fidelity(
    model: LanguageAdapterModel,
    batches: Sequence[Mapping[Language, Batch]],
    settings: Mapping[str, Keywords],
    *,
    learning_rate: float,
    loss_function: LossFunction | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Compute the cosine between the gradient of φ in a setting and the exact one, for each.

    θ takes a step of AdamW on each batch but the last, from the same point in every setting: its
    gradient is that of all rows in all of them. φ stays where it is. The gradients of the last step
    are compared, both parts together.

    Args:
        model: The model, in a learned state; afterwards it is as it was.
        batches: What each step trains on, a batch of each language. The first ones give AdamW its
            moments.
        settings: Name → options of `next_step`.
        learning_rate: The rate of AdamW.
        loss_function: As for `next_step`.
        seed: As for `next_step`, the same in every step.

    Returns:
        Name → cosine; and `"indirect norm / direct norm"` of the exact gradient.
    """
    start = [parameter.detach().clone() for parameter in model.shared_parameters().values()]

    def last(options: Keywords) -> MetaGradients:
        try:
            return _last(model, batches, {**options, "seed": seed}, learning_rate, loss_function)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(model.shared_parameters().values()), start)

    exact = last(_EXACT)
    truth = flat_gradients(exact.language)
    found = {}
    for name, options in settings.items():
        found[name] = cosine(flat_gradients(last(options).language), truth)

    return {**found, "indirect norm / direct norm": float(exact.meter.ratio)}


def _last(
    model: LanguageAdapterModel,
    batches: Sequence[Mapping[Language, Batch]],
    options: Keywords,
    learning_rate: float,
    loss_function: LossFunction | None,
) -> MetaGradients:
    """The result of the last step."""
    shared = model.shared_parameters()
    optimizer = torch.optim.AdamW(shared.values(), lr=learning_rate)
    kept = None

    for number, batch in enumerate(batches):
        found = next_step(
            model, batch, optimizer=optimizer, kept=kept, loss_function=loss_function, **options
        )
        if number + 1 == len(batches):
            break

        for name, parameter in shared.items():
            parameter.grad = found.shared.get(name)
        optimizer.step()
        optimizer.zero_grad()
        kept = found.kept

    return found


def flat_gradients(gradients: Mapping[Language, Parameters]) -> Tensor:
    """Return the gradients of all languages in one vector.

    Args:
        gradients: Language → name → gradient.
    """
    parts = [
        gradient.double().flatten()
        for by_name in gradients.values()
        for gradient in by_name.values()
    ]
    return torch.cat(parts)


def cosine(left: Tensor, right: Tensor) -> float:
    """Return the cosine of the angle between two vectors.

    Args:
        left: One.
        right: The other.
    """
    return torch.cosine_similarity(left, right, dim=0).item()

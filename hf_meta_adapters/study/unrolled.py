"""An outer step as one graph: what the factored outer step is measured against."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["unrolled_step"]


def unrolled_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batch],
    meta_batches: Mapping[Language, Batch],
    *,
    inner_learning_rate: float,
) -> list[torch.Tensor | None]:
    """Compute ∇_φ 1/L Σ_i Σ_j L_j^val(θ − β ∇_θ L_i^train(θ, φ_i), φ_j), unrolled.

    The graphs of all virtual steps and all L² validation losses are kept until the end, which is
    what it costs not to factor the gradient as `meta_step` does. It differs from Algorithm 1 in one
    thing: φ_l gets the direct part of its loss at every θ'_i, not at θ'_l alone.

    Args:
        model: The model.
        train_batches: Language → training batch.
        meta_batches: Language → held-out batch.
        inner_learning_rate: β, the rate of the virtual step.

    Returns:
        The gradients of all φ, language after language.
    """
    theta = dict(model.shared_parameters())
    phi: list[torch.Tensor] = []
    for language in model.languages:
        phi += model.language_parameters(language).values()

    # The default attention has no double backward; the MATH kernel has one.
    with sdpa_kernel(SDPBackend.MATH):
        total = torch.zeros((), device=phi[0].device)
        for language in model.languages:
            loss = model(language=language, **train_batches[language]).loss
            gradients = torch.autograd.grad(
                loss, list(theta.values()), create_graph=True, allow_unused=True
            )

            # θ'_i = θ − β g_i, as a function of φ_i.
            moved: dict[str, torch.Tensor] = {}
            for (name, parameter), gradient in zip(theta.items(), gradients, strict=True):
                moved[name] = parameter
                if gradient is not None:
                    moved[name] = parameter - inner_learning_rate * gradient

            for other, batch in meta_batches.items():
                inputs = {"language": other, **batch}
                total = total + torch.func.functional_call(model, moved, kwargs=inputs).loss

        mean = total / len(model.languages)
        return list(torch.autograd.grad(mean, phi, allow_unused=True))

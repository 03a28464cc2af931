"""How close the meta-gradient comes if v is that of earlier steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.vectors import dot, gradient
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.meta_step import meta_step
from hf_meta_adapters.study.next_fidelity import cosine, flat_gradients

__all__ = ["LaggedFidelity"]


class LaggedFidelity:
    """The cosine to a gradient, if v is the mean of the validation gradients of the last k steps.

    In the indirect part of a shared look-ahead, −β ∇φ_i ⟨∇θ L_i^train, v⟩, the training batches are
    those of the step, and v is that mean; the direct part is that of the step. The validation pass
    would need no gradient of θ then. θ stays where it is, which is in favour of the mean: in
    training it moves.

    Args:
        loss_function: As for `meta_step`; dropout masks depend on the batch alone.
        lags: k, several of them.
    """

    def __init__(self, loss_function: LossFunction, lags: Sequence[int] = (1, 4)) -> None:
        self._loss_function = loss_function
        self._lags = list(lags)
        self._earlier: dict[float, list[dict[str, Tensor]]] = {}

    def __call__(
        self,
        model: LanguageAdapterModel,
        train: Mapping[Language, Batch],
        meta: Mapping[Language, Batch],
        rate: float,
        truth: Tensor,
    ) -> dict[str, float]:
        """Compare a step, and keep its v for later ones.

        Args:
            model: The model.
            train: Language → training batch.
            meta: Language → validation batch.
            rate: β; each has its own earlier steps.
            truth: The gradient to compare with, of all languages in one vector.

        Returns:
            Name → cosine, for each k of which there are as many earlier steps.
        """
        step = meta_step(
            model,
            train,
            meta,
            inner_learning_rate=rate,
            loss_function=self._loss_function,
            meta_gradient="exact",
            step_weights=StepWeights(dict.fromkeys(train, 1.0), keep_validation=True),
        )
        direct, found = flat_gradients(step.direct), {}
        earlier = self._earlier.setdefault(rate, [])
        for lag in self._lags:
            if len(earlier) >= lag:
                indirect = self._indirect(model, train, _mean(earlier[-lag:]), rate)
                found[f"lagged, mean of {lag}"] = cosine(direct + indirect, truth)

        earlier.append(dict(step.validation or {}))
        return found

    def _indirect(
        self,
        model: LanguageAdapterModel,
        train: Mapping[Language, Batch],
        vector: Mapping[str, Tensor],
        rate: float,
    ) -> Tensor:
        """−β ∇φ_i ⟨∇θ L_i, v⟩ of all languages in one vector, by double backward."""
        shared = model.shared_parameters()
        names = list(vector)
        parts = []
        for language, batch in train.items():
            own = list(model.language_parameters(language).values())
            # the fused kernels of attention have no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                loss = self._loss_function(model, {**batch, "language": language})
                slopes = gradient(loss, [shared[name] for name in names], create_graph=True)
                product = dot(slopes, [vector[name] for name in names])
                mixed = torch.autograd.grad(product, own)
            parts += [-rate * entry.double().flatten() for entry in mixed]

        return torch.cat(parts)


def _mean(vectors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = vectors[0]
    return {name: torch.stack([one[name] for one in vectors]).mean(0) for name in names}

"""The loss of a model whose weights are multiplied by gates, without writing to the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.diagnostics._language_losses import LossFunction, evaluate_loss

__all__ = ["GatedLoss"]


class GatedLoss:
    """`L_l(θ ⊙ z)` as a function of the gates z.

    Args:
        model: The model.
        weights: Name → weight with gates; weights tied to it get the same gates.
        language: The language l.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        language: Language,
        loss_function: LossFunction | None,
    ) -> None:
        self._loss = _LossOfLanguage(model, language, loss_function)
        self._weights = weights

        self._names: dict[int, list[str]] = {}  # id of a parameter → all its names
        for name, parameter in self._loss.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)

    def __call__(self, batch: Batch, gates: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: The batch.
            gates: Name → gates, broadcast to the weight.

        Returns:
            The scalar loss.
        """
        gated: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            product = weight.detach() * gates[name].to(weight)
            gated |= dict.fromkeys(self._names[id(weight)], product)

        # Every name of a tied weight is replaced above: `tie_weights=True` would do it as well, but
        # leaves models of `adapters` broken.
        return torch.func.functional_call(self._loss, gated, (batch,), tie_weights=False)


class _LossOfLanguage(nn.Module):
    """The loss as a module, so that weights are replaced whatever `loss_function` calls."""

    def __init__(
        self, model: nn.Module, language: Language, loss_function: LossFunction | None
    ) -> None:
        super().__init__()
        self.model = model
        self.language = language
        self.loss_function = loss_function

    def forward(self, batch: Batch) -> Tensor:
        return evaluate_loss(self.model, batch, self.language, self.loss_function)

"""The loss of a model whose weights are multiplied by gates, without touching the weights."""

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
        weights: Name → weight to be gated; weights tied to them are gated alike.
        language: The language l.
        loss_function: Replaces `model(**batch)`.
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
        self._aliases: dict[int, list[str]] = {}
        for name, parameter in self._loss.named_parameters(remove_duplicate=False):
            self._aliases.setdefault(id(parameter), []).append(name)

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
            gated |= dict.fromkeys(self._aliases[id(weight)], product)
        # Every name of a tied weight is replaced above: `tie_weights` would do it, but leave
        # `adapters` models broken.
        return torch.func.functional_call(self._loss, gated, (batch,), tie_weights=False)


class _LossOfLanguage(nn.Module):
    """The loss as a module, so that weights are replaced whatever `loss_function` calls."""

    def __init__(
        self, model: nn.Module, language: Language, loss_function: LossFunction | None
    ) -> None:
        super().__init__()
        self.model, self.language, self.loss_function = model, language, loss_function

    def forward(self, batch: Batch) -> Tensor:
        return evaluate_loss(self.model, batch, self.language, self.loss_function)

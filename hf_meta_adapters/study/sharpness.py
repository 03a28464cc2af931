"""Sharpness-aware minimization: the gradient at the worst place nearby, a rival regularizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SharpnessAwareTrainer"]


class SharpnessAwareTrainer(MetaAdapterTrainer):
    """Steps along ∇L(w + ρ ∇L(w) / ‖∇L(w)‖), w = (θ, φ) (Foret et al. 2021, arXiv:2010.01412).

    A step costs twice that of `MetaAdapterTrainer`; its logs and counts of rows have both passes.

    Args:
        *args: As in `MetaAdapterTrainer`.
        radius: ρ, in units of the parameters; above 0.
        **kwargs: As there. `adapter_update` must be `"train"`, and gradients not accumulated.
    """

    def __init__(self, *args: Any, radius: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._radius = radius

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Take the step of `MetaAdapterTrainer` twice, the second time at the worst place nearby.

        Args:
            model: As there.
            inputs: As there.
            *args: As there.
            **kwargs: As there.

        Returns:
            The mean training loss at w.
        """
        loss = super().training_step(model, inputs, *args, **kwargs)
        moved = [one for one in self._model.parameters() if one.grad is not None]
        values = [one.detach().clone() for one in moved]
        gradients = [one.grad for one in moved if one.grad is not None]

        with torch.no_grad():
            length = torch.stack([gradient.norm() for gradient in gradients]).norm()
            for one, gradient in zip(moved, gradients, strict=True):
                one.add_(gradient, alpha=float(self._radius / (length + 1e-12)))

        # The gradient of the second pass stays in `.grad`, for the step of the optimizer from w.
        super().training_step(model, inputs, *args, **kwargs)
        with torch.no_grad():
            for one, value in zip(moved, values, strict=True):
                one.copy_(value)
        return loss

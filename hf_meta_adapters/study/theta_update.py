"""The update of θ that ends a step, for benchmarks that take the same step again and again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["ThetaUpdate"]


class ThetaUpdate:
    """Updates θ by AdamW, at so small a rate that it stays where it is.

    Args:
        model: The model.
    """

    def __init__(self, model: LanguageAdapterModel) -> None:
        self._model = model
        theta = model.shared_parameters()
        self._optimizer = torch.optim.AdamW(theta.values(), lr=1e-8, fused=True)

        # What a step left in no `.grad`, as that of the unrolled step, is not updated for free.
        self._zeros = {name: torch.zeros_like(entry) for name, entry in theta.items()}

    def __call__(self, shared: Mapping[str, Tensor] | None = None) -> None:
        """Take an update.

        Args:
            shared: The gradient of θ by name; default what is in `.grad`, and zeros where that is
                empty.
        """
        for name, parameter in self._model.shared_parameters().items():
            if shared is not None:
                parameter.grad = shared.get(name)
            elif parameter.grad is None:
                parameter.grad = self._zeros[name]

        self._optimizer.step()
        self._model.zero_grad()

"""The outer update of Reptile (Nichol et al. 2018) and Sequential Reptile (Lee et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class InnerLoop:
    """K steps of θ, one after another, after which θ ← θ_0 + η (θ_K − θ_0).

    *Sequential* Reptile takes each step on the batch of one language, drawn anew for each step.
    Steps that follow one another in different languages reward gradients that agree: to first
    order, θ_K − θ_0 raises the inner products of the gradients of different steps. A loop per
    language, as in Reptile, does so within a language only; with φ in place of θ it leads to a
    start from which few steps in any of the languages lead far.

    Args:
        shared: θ, as it is when the loop begins. Its tensors are changed in place, by the optimizer
            within the loop and by `end`.

    Attributes:
        start: θ_0, a copy.

    Example:
        >>> theta = torch.tensor([1.0])
        >>> loop = InnerLoop([theta])
        >>> for gradient in (2.0, -1.0, 4.0):  # three steps of SGD, each of another language
        ...     theta -= 0.1 * gradient
        >>> loop.end(rate=0.5)
        >>> theta
        tensor([0.7500])
    """

    def __init__(self, shared: Sequence[Tensor]) -> None:
        self._shared = list(shared)
        self.start = [tensor.detach().clone() for tensor in self._shared]

    @torch.no_grad()
    def end(self, rate: float) -> None:
        """Set θ ← θ_0 + η (θ − θ_0).

        Args:
            rate: η, above 0; with 1, θ stays where the steps have led.
        """
        for tensor, start in zip(self._shared, self.start, strict=True):
            # in half precision the difference would be rounded before it is scaled
            exact = torch.promote_types(tensor.dtype, torch.float32)
            before = start.to(exact)
            tensor.copy_(before + rate * (tensor.to(exact) - before))

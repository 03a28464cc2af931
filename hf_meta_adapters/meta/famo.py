"""Weights of languages that let all losses fall at the same rate, from the losses alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.language_weights import LanguageWeights

__all__ = ["Famo"]

_PULL = 1e-3
_LEAST = 1e-3  # of a loss, in nats: the logarithm of less would be all that counts
_MEAN, _SQUARE, _EPSILON = 0.9, 0.999, 1e-8


class Famo(LanguageWeights):
    """Weigh languages so that their losses fall at the same rate, by FAMO.

    Fast Adaptive Multitask Optimization (Liu, Feng, Stone and Liu 2023, arXiv:2306.03792,
    Algorithm 1): with z = softmax(ξ), the gradient of Σ_l z_l log ℓ_l, scaled to weights that sum
    to 1,

        w_l = c z_l / ℓ_l,      c = 1 / Σ_k (z_k / ℓ_k),

    and ξ descends on the rates at which the losses fall, so that slow languages gain weight:

        δ_l = log ℓ_l^before − log ℓ_l
        ξ ← ξ − Adam(J(z)ᵀ δ + γ ξ),      J(z)ᵀ δ = z_l (δ_l − Σ_k z_k δ_k),

    γ = 0.001, by Adam with β = (0.9, 0.999), as in the authors' code.

    It differs from the paper in these points. ℓ_l is the loss of the language in its last step, and
    δ_l compares two batches of its training text, where the paper evaluates the same batch before
    and after the step, at the price of another forward pass. In a step that holds some of the
    languages, z is shared out among them, and ξ and Adam's state of the others stay. A loss under
    0.001 counts as 0.001, and a language without a loss so far as one of the geometric mean of the
    others.

    Args:
        languages: The languages of the model.
        rate: The learning rate of Adam. Default 0.025.

    Example:
        >>> weights = Famo(["en", "sw"])
        >>> weights.observe({"en": 2.0, "sw": 4.0}, {})
        >>> {key: round(weight, 3) for key, weight in weights.weights().items()}
        {'en': 0.667, 'sw': 0.333}
    """

    usual_rate: ClassVar[float] = 0.025

    def __init__(self, languages: Sequence[Language], rate: float | None = None) -> None:
        super().__init__(languages, rate)
        self._logits = self._zeros()
        self._logarithms = torch.full_like(self._logits, torch.nan)
        self._steps = self._zeros()
        self._mean, self._square = self._zeros(), self._zeros()

    def observe(
        self, losses: Mapping[Language, float], alignment: Mapping[Language, float]
    ) -> None:
        """Learn from a step.

        Raises:
            ConfigurationError: If a loss is negative.
        """
        negative = {key: loss for key, loss in losses.items() if loss < 0}
        if negative:
            raise ConfigurationError(
                "FAMO takes logarithms of training losses, which must not be negative. Found"
                f' {negative}. Use `language_weights="uniform"` or `"alignment"` with this loss.'
            )
        if not losses:
            return

        places = self._places(losses)
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        now = values.clamp_min(_LEAST).log()
        fallen = self._logarithms[places] - now
        self._logarithms[places] = now

        # A language that is seen for the first time has no rate yet.
        seen = ~fallen.isnan()
        if bool(seen.any()):
            self._descend(places[seen], fallen[seen])

    def state(self) -> dict[str, Tensor]:
        """ξ, the last log ℓ_l (NaN before the first), and the state of Adam."""
        return {
            "logits": self._logits,
            "logarithms": self._logarithms,
            "steps": self._steps,
            "mean": self._mean,
            "square": self._square,
        }

    def _weights(self) -> Tensor:
        known = ~self._logarithms.isnan()
        if not bool(known.any()):
            return torch.ones_like(self._logits)

        usual = self._logarithms[known].mean()
        logarithms = torch.where(known, self._logarithms, usual)
        return (self._logits - logarithms).softmax(0)

    def _descend(self, places: Tensor, fallen: Tensor) -> None:
        """A step of Adam for some of the logits."""
        z = self._logits[places].softmax(0)
        gradient = z * (fallen - (z * fallen).sum()) + _PULL * self._logits[places]

        self._steps[places] += 1
        mean = self._mean[places].lerp(gradient, 1 - _MEAN)
        square = self._square[places].lerp(gradient**2, 1 - _SQUARE)
        self._mean[places], self._square[places] = mean, square

        # Both means begin at 0, which is divided out.
        steps = self._steps[places]
        root = (square / (1 - _SQUARE**steps)).sqrt()
        self._logits[places] -= self.rate * (mean / (1 - _MEAN**steps)) / (root + _EPSILON)

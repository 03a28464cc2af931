"""Weights of languages by how well their training gradients agree with the validation gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.language_weights import LanguageWeights

__all__ = ["Alignment"]

_PULL = 1e-3  # towards equal weights; a memory of about a thousand steps
_FLOOR = 0.1


class Alignment(LanguageWeights):
    """Weigh a language by how much its training gradient lowers the validation loss.

    After DoGE (Fan, Pagliardini and Jaggi 2023, arXiv:2310.15393). With g_l = ∇θ L_l^train, the
    validation gradient v = Σ_j w_j^val ∇θ L_j^val of the last step that has computed it, and

        a_l = ⟨g_l, v⟩ / (‖g‖ ‖v‖),      g = Σ_l w_l g_l,

    the weights follow exponentiated gradient ascent on Σ_l w_l a_l, the cosine of g and v:

        ξ_l ← (1 − γ) ξ_l + η (a_l − Σ_k w_k a_k)
        w_l = 0.9 · softmax(ξ)_l + 0.1 / L,

    γ = 0.001, for the languages of the step, among which the w_k of the sum are shared out. ξ
    begins at 0, and the weights are used from the next step on. v, which has the size of θ, is kept
    between steps.

    It differs from DoGE, which updates log w_l by ⟨g_l, v⟩ times the learning rate over μ, in these
    points. The weights multiply losses in the same run; DoGE learns them in a run of a small model,
    and samples by their mean in another one. a_l is divided by the norms, so that η means the same
    whatever the size of the gradients and the learning rate. v is that of an earlier step, at the
    θ' where the meta-gradient is taken. γ pulls ξ back to equal weights, and no language has less
    than a tenth of an equal weight; DoGE does neither.

    Args:
        languages: The languages of the model.
        rate: η. Default 0.01.

    Example:
        >>> weights = Alignment(["en", "sw"], rate=1.0)
        >>> weights.observe({"en": 2.0, "sw": 2.0}, {"en": 0.5, "sw": -0.5})
        >>> {key: round(weight, 3) for key, weight in weights.weights().items()}
        {'en': 0.708, 'sw': 0.292}
    """

    compares: ClassVar[bool] = True
    usual_rate: ClassVar[float] = 0.01

    def __init__(self, languages: Sequence[Language], rate: float | None = None) -> None:
        super().__init__(languages, rate)
        self._logits = self._zeros()

    def observe(
        self, losses: Mapping[Language, float], alignment: Mapping[Language, float]
    ) -> None:
        """Learn from a step; without a comparison, nothing."""
        if not alignment:
            return

        places = self._places(alignment)
        gains = torch.tensor(list(alignment.values()), dtype=torch.float64)
        weights = self._weights()[places]
        mean = (weights * gains).sum() / weights.sum()
        self._logits[places] = (1 - _PULL) * self._logits[places] + self.rate * (gains - mean)

    def state(self) -> dict[str, Tensor]:
        """ξ."""
        return {"logits": self._logits}

    def _weights(self) -> Tensor:
        return (1 - _FLOOR) * self._logits.softmax(0) + _FLOOR / len(self.languages)

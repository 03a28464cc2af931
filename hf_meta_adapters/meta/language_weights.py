"""Weights of languages that are learned in training: what all ways to learn them have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["LanguageWeights"]


class LanguageWeights(ABC):
    """Weights w_l of the languages' training losses in the update of θ, learned step by step.

    The weights of a step depend on earlier steps alone, so that one pass over each language does.
    An object lives as long as a run; like an optimizer, it has a state, which belongs in a
    checkpoint. It computes in float64 on the CPU, from numbers of the global batch: the same on
    every process.

    Args:
        languages: The languages of the model.
        rate: The step size of the logits; `None` for `usual_rate`.

    Raises:
        ConfigurationError: If the rate is not positive.
    """

    compares: ClassVar[bool] = False
    """Whether gradients have to be compared with the validation gradient v."""
    usual_rate: ClassVar[float]
    """The default of the rate."""

    def __init__(self, languages: Sequence[Language], rate: float | None = None) -> None:
        self.languages = tuple(languages)
        self.rate = self.usual_rate if rate is None else rate
        if not 0 < self.rate < math.inf:
            raise ConfigurationError(
                "The step size of learned weights must be a positive number. Found"
                f" {self.rate!r}. Leave `language_weights_rate` out for {self.usual_rate}, or use"
                ' `language_weights="uniform"`.'
            )

    def weights(self) -> dict[Language, float]:
        """w_l of every language; they sum to 1."""
        weights = self._weights()
        return dict(zip(self.languages, (weights / weights.sum()).tolist(), strict=True))

    @abstractmethod
    def observe(
        self, losses: Mapping[Language, float], alignment: Mapping[Language, float]
    ) -> None:
        """Learn from a step.

        Args:
            losses: L_l^train of the languages that had a loss in it.
            alignment: How well their gradients agree with v; empty where nothing was compared.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What the next steps depend on: tensors, (L,), by name."""

    @abstractmethod
    def _weights(self) -> Tensor:
        """The weights up to a factor, (L,)."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state.

        Args:
            state: That of `state`.

        Raises:
            ValueError: If it is one of other weights.
        """
        own = self.state()
        if state.keys() != own.keys():
            raise ValueError(f"the tensors {sorted(state)} instead of {sorted(own)}")

        for name, tensor in own.items():
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                raise ValueError(f"`{name}` of {state[name].dtype}, {tuple(state[name].shape)}")
            tensor.copy_(state[name])

    def _places(self, languages: Mapping[Language, float]) -> Tensor:
        """The positions of some languages among all."""
        return torch.tensor([self.languages.index(key) for key in languages], dtype=torch.long)

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.languages), dtype=torch.float64)

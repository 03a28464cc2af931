"""The update of θ while the gradients of the languages come in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from hf_meta_adapters._typing import Language, Parameters
from hf_meta_adapters.meta._projection import grouped
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.vectors import Vector, absent, add_

Again: TypeAlias = Callable[[Language], Vector]
"""Takes the gradient of a language for θ a second time, of this process."""


@dataclass(frozen=True)
class SurgeryStep:
    """What a step gives to whatever puts its update of θ together.

    Args:
        surgery: What the weights are computed by.
        shared: θ, by name.
        languages: The languages that have a training loss.
        reduce: Sums over processes.
        summed: Whether the gradients that are added are those of the global batch, the same on
            every process, and not those of its own rows.
    """

    surgery: Surgery
    shared: Parameters
    languages: Sequence[Language]
    reduce: Reduce
    summed: bool


class Combination(ABC):
    """Σ_l w_l g_l of one step.

    Args:
        step: The step.
    """

    passes_twice = False
    """Whether `result` takes the gradients a second time."""

    def __init__(self, step: SurgeryStep) -> None:
        self.surgery = step.surgery
        self.parameters = list(step.shared.values())
        self.languages = list(step.languages)
        self.groups = grouped(list(step.shared), step.surgery.groups)
        self.reduce = step.reduce
        self.summed = step.summed

    @abstractmethod
    def add(self, key: Language, gradient: Vector) -> None:
        """Take the gradient of a language for θ; the languages come in their order."""

    @abstractmethod
    def result(self, again: Again) -> tuple[Vector, dict[Language, Tensor]]:
        """The update of θ, summed over processes, and the weights of the languages.

        Args:
            again: Takes a gradient a second time.

        Returns:
            Σ_l w_l g_l; and L · w_l, 0-d, the mean over groups of parameters.
        """

    def agreed(self, weights: Tensor) -> Tensor:
        """The mean of the processes' weights, (groups, L): they may differ in the last bit.

        Different processors may sum in different orders, and θ must stay the same everywhere.
        """
        counted = weights.new_ones(weights.numel() + 1)
        counted[1:] = weights.flatten()

        like = self.parameters[0]
        message = counted.to(like.device)
        self.reduce.total(message)
        return (message[1:] / message[0]).view(weights.shape).cpu()

    def add_weighted_(self, total: Vector, gradient: Vector, weights: Tensor) -> None:
        """In place, total ← total + w_g · gradient in each group g; weights (groups)."""
        for members, weight in zip(self.groups.values(), weights.tolist(), strict=True):
            part = [total[position] for position in members]
            add_(part, [gradient[position] for position in members], weight)
            for position, entry in zip(members, part, strict=True):
                total[position] = entry

    def by_language(self, weights: Tensor) -> dict[Language, Tensor]:
        """L · w_l of each language, 0-d: 1 as in the mean."""
        means = weights.mean(0) * len(self.languages)
        return dict(zip(self.languages, means.float(), strict=True))

    def absent(self) -> Vector:
        """A vector without entries."""
        return absent(self.parameters)

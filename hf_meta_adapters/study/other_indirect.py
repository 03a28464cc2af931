"""Controls of `lookahead="next"`: an indirect part of the same length in another direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.seeding import stable_seed
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["FlippedIndirectTrainer", "RandomIndirectTrainer", "flipped", "random_direction"]

Change = Callable[[dict[str, Tensor], int], dict[str, Tensor]]
"""From the indirect part of one φ_l, by parameter name, and a seed to what takes its place."""


def flipped(indirect: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return −indirect.

    Args:
        indirect: The indirect part of one φ_l, by parameter name.
        seed: Not used.

    Returns:
        The same names, each with the opposite sign.
    """
    return {name: -entry for name, entry in indirect.items()}


def random_direction(indirect: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return ‖indirect‖ · z / ‖z‖ with z ~ N(0, 1).

    Args:
        indirect: The indirect part of one φ_l, by parameter name.
        seed: The seed of z.

    Returns:
        The same names and shapes, with the same norm over all of them.
    """
    # Drawn on the CPU, so that a seed gives the same direction on every device.
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(part.shape, generator=generator).to(part)
        for name, part in indirect.items()
    }

    scale = _norm(indirect) / _norm(drawn)
    return {name: part * scale for name, part in drawn.items()}


class FlippedIndirectTrainer(MetaAdapterTrainer):
    """Steps along direct − indirect where `MetaAdapterTrainer` steps along direct + indirect.

    Args:
        *args: As in `MetaAdapterTrainer`.
        **kwargs: As there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _change_next_step(self, flipped)


class RandomIndirectTrainer(MetaAdapterTrainer):
    """Steps along direct + r, where r has the length of each φ_l's indirect part.

    Args:
        *args: As in `MetaAdapterTrainer`.
        **kwargs: As there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _change_next_step(self, random_direction)


class _ChangedNextStep:
    """The `next_step` of an outer step, with another indirect part."""

    def __init__(self, next_step: Any, change: Change, seed: int) -> None:
        self._next_step = next_step
        self._change = change
        self._seed = seed

    def __call__(self, step: Any, **evaluation: Any) -> MetaGradients:
        gradients: MetaGradients = self._next_step(step, **evaluation)

        changed: dict[Language, dict[str, Tensor]] = {}
        for place, (language, indirect) in enumerate(gradients.indirect.items()):
            # Another direction for each language, each step and each seed of the run.
            seed = stable_seed(self._seed, step.number, place)
            changed[language] = self._change(indirect, seed)
        return replace(gradients, indirect=changed)

    def forget(self) -> None:
        self._next_step.forget()

    def save(self, folder: Path) -> None:
        self._next_step.save(folder)

    def load(self, folder: Path) -> None:
        self._next_step.load(folder)


def _change_next_step(trainer: MetaAdapterTrainer, change: Change) -> None:
    outer_step = trainer._outer_step
    outer_step.next_step = _ChangedNextStep(  # type: ignore[assignment]  # it has the same methods
        outer_step.next_step, change, trainer.args.seed
    )


def _norm(parts: dict[str, Tensor]) -> Tensor:
    """The norm of all entries together, 0-d; 1 of none, so that it can be divided by."""
    if not parts:
        return torch.ones(())
    return torch.stack([part.norm() for part in parts.values()]).norm()

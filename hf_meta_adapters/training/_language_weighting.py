"""The weights of languages in a Trainer: used in a step, learned from it, and in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.meta.language_weights import LanguageWeights
from hf_meta_adapters.meta.result import NamedGradient
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.training._apply_gradients import Gradients

_NAME = "language_weights.safetensors"
_OWN, _VALIDATION = "weights/", "validation/"


class LanguageWeighting:
    """The weights of a run, one step after the other.

    Args:
        learned: What learns them; `None` for equal weights.
    """

    def __init__(self, learned: LanguageWeights | None) -> None:
        self._learned = learned
        self._validation: NamedGradient | None = None
        self._next_validation: NamedGradient = {}

    def of_step(self, *, compared: bool = True) -> StepWeights | None:
        """The weights of the step at hand.

        Args:
            compared: Whether the training gradients are compared with v of an earlier step.

        Returns:
            The weights; `None` for equal ones.
        """
        if self._learned is None:
            return None

        against = self._validation if compared else None
        weights = self._learned.weights()
        return StepWeights(weights, against, keep_validation=self._learned.compares)

    def logs(self, gradients: Gradients) -> dict[str, float]:
        """The weights of the languages of a step, under the names of the log."""
        if self._learned is None:
            return {}

        weights = self._learned.weights()
        return {f"weight_{key}": weights[key] for key in gradients.train_loss}

    def note(self, gradients: Gradients) -> None:
        """Keep v, or a part of it, until the step is complete."""
        if not isinstance(gradients, MetaGradients):
            return

        # Alternating updates take it language by language, each with its weight in the mean.
        for name, entry in (gradients.validation or {}).items():
            if name in self._next_validation:
                entry = self._next_validation[name] + entry
            self._next_validation[name] = entry

    def learn(self, gradients: Gradients) -> None:
        """Learn from a step that is complete: all of it is finite."""
        if self._learned is None:
            return

        losses, alignment = _floats(gradients.train_loss), _floats(gradients.alignment)
        self._learned.observe(losses, alignment)
        if self._next_validation:
            self._validation = self._next_validation
        self.forget()

    def forget(self) -> None:
        """Drop what was noted of a step that is not taken."""
        self._next_validation = {}

    def save(self, folder: Path) -> None:
        """Write what the next steps depend on to a checkpoint; it is the same on all processes."""
        if self._learned is None:
            return

        tensors = {f"{_OWN}{name}": entry for name, entry in self._learned.state().items()}
        for name, entry in (self._validation or {}).items():
            tensors[f"{_VALIDATION}{name}"] = entry.detach().contiguous()
        save_file(tensors, str(folder / _NAME), {"languages": self._languages()})

    def load(self, folder: Path, device: torch.device) -> None:
        """Take over what a checkpoint holds.

        Args:
            folder: The folder of the checkpoint.
            device: The device of θ.

        Raises:
            CheckpointError: If it holds nothing that fits.
        """
        if self._learned is None:
            return

        path = folder / _NAME
        try:
            with safe_open(str(path), framework="pt") as file:
                names = list(file.keys())
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
                languages = file.metadata()["languages"]
            if languages != self._languages():
                raise ValueError(f"weights of {languages}")
            self._learned.load_state(_under(_OWN, tensors))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "A run that learns weights of languages goes on from those that it has learned."
                f" Found none that fit in {path}: {error}. Resume from an earlier checkpoint, or"
                " start a new run from its weights: `model.load_weights(...)`."
            ) from error

        validation = _under(_VALIDATION, tensors)
        self._validation = {name: entry.to(device) for name, entry in validation.items()} or None

    def _languages(self) -> str:
        return json.dumps(self._learned.languages if self._learned else [])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name has a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _floats(values: dict[Language, Tensor]) -> dict[Language, float]:
    """0-d tensors as floats, in one transfer from the device."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))

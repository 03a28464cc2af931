"""No language-specific parameters: the backend of the monolingual and the joint baseline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.abilities import (
    ExportsLora,
    MergesLanguages,
    RemovesLanguages,
    SharedPart,
    TakesSharedPart,
)
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.errors import ConfigurationError


class PlainBackend(Backend, TakesSharedPart, MergesLanguages, ExportsLora, RemovesLanguages):
    """The model without adapters; every language runs through the same parameters."""

    name: ClassVar[str] = "none"

    def __init__(self, model: nn.Module, config: None) -> None:
        super().__init__(model, config)
        self._shared: SharedPart | None = None

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self.base

    def add(self, language: Language) -> None:
        """Create nothing."""

    def activate(self, language: Language) -> None:
        """Switch nothing."""

    def remove(self, language: Language, other: Language) -> None:
        """Delete nothing."""

    def save(self, language: Language, directory: Path) -> None:
        """Write nothing."""

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read nothing."""

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> None:
        """Read nothing: the method has no configuration."""

    def take_shared_part(self, part: SharedPart) -> None:
        """Remember θ, which merging needs."""
        self._shared = part

    def merged(self, language: Language) -> nn.Module:
        """Compute a copy of the model with θ in its weights."""
        if self._shared is None:
            return copy.deepcopy(self.base)

        return self._shared.merged()

    def export_lora(self, language: Language, directory: Path, base_name: str | None) -> None:
        """Write θ, which must be an adapter."""
        if not isinstance(self._shared, ExportsLora):
            raise ConfigurationError(
                "A LoRA can be exported from a model that has one. Found a model without adapters:"
                " it is a plain checkpoint, which `save_pretrained` writes."
            )

        self._shared.export_lora(language, directory, base_name)

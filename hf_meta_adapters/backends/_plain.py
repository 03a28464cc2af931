"""No language-specific parameters: the backend of the monolingual and the joint baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends._base import Backend


class PlainBackend(Backend):
    """The model as it is; every language runs through the same parameters."""

    name: ClassVar[str] = "none"

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self.base

    def add(self, language: Language) -> None:
        """Create nothing."""

    def activate(self, language: Language) -> None:
        """Switch nothing."""

    def save(self, language: Language, directory: Path) -> None:
        """Write nothing."""

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read nothing."""

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> Any:
        """There is no configuration."""
        return None

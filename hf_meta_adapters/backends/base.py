"""The small interface between a model with languages and a library that puts parameters into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from hf_meta_adapters._typing import Language


class Backend(ABC):
    """How language-specific parameters φ enter a model, are switched, saved and loaded.

    A backend changes the model in place. It neither decides what is trained nor keeps track of
    which parameter is whose: `LanguageAdapterModel` finds the parameters of a language as those
    that `add` made.

    Args:
        model: The transformers model.
        config: The configuration that the user gave, of a type that this backend serves.
    """

    name: ClassVar[str]
    """The name under which saved files record the backend."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        self.base = model
        self.config = config

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What a forward pass calls: the model, or the wrapper that a library has put around it."""

    @abstractmethod
    def add(self, language: Language) -> None:
        """Create the parameters of a language, with `requires_grad` where they are to be trained."""

    @abstractmethod
    def activate(self, language: Language) -> None:
        """Route the following forward passes through a language; never touches `requires_grad`."""

    @abstractmethod
    def save(self, language: Language, directory: Path) -> None:
        """Write the parameters and the configuration of a language in the format of the backend's own library."""

    @abstractmethod
    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read the parameters of a language, which `add` has created, from what `save` wrote.

        Args:
            language: The language.
            directory: Where from.
            body: The prefix of the body's names, if the model is of another class over the same
                body than the one that was saved; what is in the head is then left as it is.
        """

    @classmethod
    @abstractmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> Any:
        """The configuration in a directory that `save` wrote, for a model of another class if `body` is given."""

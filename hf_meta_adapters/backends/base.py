"""The interface between a model with languages and a library that puts parameters into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import nn

from hf_meta_adapters._typing import Language


class Backend(ABC):
    """How the parameters of a language, φ_l, enter a model, are switched, saved and loaded.

    Derive from this class to support another adapter library or a method of your own, and from the
    classes in `hf_meta_adapters.backends.abilities` to declare what it can do beyond that.
    `register_backend` then makes `get_language_model` and `from_pretrained` use it.

    A backend changes the model in place. It decides neither what is trained nor which parameter
    belongs to which language: `LanguageAdapterModel` takes as φ_l whatever `add` creates.

    Args:
        model: The transformers model.
        config: The configuration that was passed to `get_language_model`.

    Attributes:
        base: The transformers model, with whatever has been put into it.
        config: The configuration.
    """

    name: ClassVar[str]
    """The name under which saved files record the backend."""

    def __init__(self, model: nn.Module, config: object) -> None:
        self.base = model
        self.config = config

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What a forward pass calls: the model, or the wrapper that a library put around it."""

    @abstractmethod
    def add(self, language: Language) -> None:
        """Create φ_l; `requires_grad` marks the parameters that the method trains."""

    @abstractmethod
    def activate(self, language: Language) -> None:
        """Run the following forward passes in a language, without touching `requires_grad`."""

    @abstractmethod
    def save(self, language: Language, directory: Path) -> None:
        """Write φ_l and its configuration in the format of the backend's own library."""

    @abstractmethod
    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read what `save` wrote into φ_l, which `add` has created.

        Args:
            language: The language.
            directory: The folder to read.
            body: The prefix of the body's names in a model with a head, if the model is of another
                class over the same body than the saved one. Parameters of the head then stay as
                they are. `None` if the class is the same.
        """

    @classmethod
    @abstractmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> object:
        """Read the configuration that `save` wrote; `body` as for `load`."""

"""What some backends can do beyond the common interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from hf_meta_adapters._typing import Language


class SharedPart(ABC):
    """θ as an adapter over a frozen base, active in every forward pass beside the adapter of the language."""

    @abstractmethod
    def save(self, directory: Path, base_name: str) -> None:
        """Write it in the format of its own library, for the base model of that name."""

    @abstractmethod
    def load(self, directory: Path, body: str | None = None) -> None:
        """Read what `save` wrote, in place; `body` as in `Backend.load`."""

    @abstractmethod
    def remove(self) -> None:
        """Take it out of the model again."""

    @abstractmethod
    def merged(self) -> nn.Module:
        """A copy of the transformers model, without languages, with θ in its weights."""


class TakesSharedPart(ABC):
    """A backend whose language adapters work beside a `SharedPart`."""

    @abstractmethod
    def share(self, config: Any) -> SharedPart:
        """Put θ into the model, before any language."""


class ReplacesModules(ABC):
    """A backend whose adapters may stand in the place of modules of the base."""

    @abstractmethod
    def replaced(self) -> list[nn.Module]:
        """The modules that no forward pass in a language calls any more."""


class RoutesRows(ABC):
    """A backend that runs one batch through several adapters."""

    @abstractmethod
    def routing(self, adapters: Sequence[Language]) -> AbstractContextManager[Any] | None:
        """A context in which `module` runs each row through an adapter of its own; `None` where that cannot be."""


class MergesLanguages(ABC):
    """A backend whose adapters may become part of the base."""

    @abstractmethod
    def merged(self, adapter: Language) -> nn.Module:
        """A copy of the transformers model that computes what the model does with this adapter, without any."""


class KeepsContext(ABC):
    """A backend whose library keeps state beside the model during a forward pass."""

    @abstractmethod
    def enable_checkpointing(self, arguments: dict[str, Any], **options: Any) -> None:
        """`gradient_checkpointing_enable` of transformers, with that state kept for the recomputation."""


class ChecksMeans(ABC):
    """A backend some of whose methods have parameters of which a mean makes no sense."""

    @abstractmethod
    def check_mean(self) -> None:
        """Raise a `ConfigurationError` if the mean of several adapters is none."""

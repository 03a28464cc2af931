"""What a backend, or a layer of it, can do beyond the common interface: a class for each ability.

A backend declares an ability by deriving from its class. `LanguageAdapterModel` asks with
`isinstance`, and refuses with an explanation what a backend cannot do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from hf_meta_adapters._typing import Language


class SharedPart(ABC):
    """θ as an adapter over a frozen base, active next to the adapter of whichever language runs.

    Implement it for a library whose adapters can be θ, and return it from `MakesSharedParts`.
    """

    @abstractmethod
    def save(self, directory: Path, base_name: str) -> None:
        """Write θ in the format of its own library, for the base model of that name."""

    @abstractmethod
    def load(self, directory: Path, body: str | None = None) -> None:
        """Read what `save` wrote, in place; `body` as for `Backend.load`."""

    @abstractmethod
    def remove(self) -> None:
        """Take θ out of the model, which is then as it was before."""

    @abstractmethod
    def merged(self) -> nn.Module:
        """Compute a copy of the transformers model, without languages, with θ in its weights."""

    def token_rows(self) -> Mapping[int, Collection[int]]:
        """The rows of embeddings that θ has values of its own for.

        A base that differs in nothing else from its files need not be saved.

        Returns:
            The address of the data of an embedding → its rows. Default none.
        """
        return {}


class MakesSharedParts(ABC):
    """A backend whose library can put θ into a model as an adapter.

    Implement it where the library's adapters can stack: θ stays active while the adapter of a
    language, of this or of another backend, is switched.
    """

    @classmethod
    @abstractmethod
    def make_shared_part(cls, model: nn.Module, config: object) -> SharedPart:
        """Put θ into a model that has no language yet, and freeze everything else."""


class TakesSharedPart(ABC):
    """A backend whose language adapters work next to a `SharedPart`.

    Implement it if layers of θ and layers of a language can lie on the same module, and if neither
    switches the other off.
    """

    @abstractmethod
    def take_shared_part(self, part: SharedPart) -> None:
        """Keep θ active in all languages. Called before the first language is added."""


class ReplacesModules(ABC):
    """A backend whose adapters may stand in the place of modules of the base.

    Implement it so that parameters which no forward pass reads do not count as θ.
    """

    @abstractmethod
    def replaced(self) -> list[nn.Module]:
        """The modules of the base that no forward pass in a language calls anymore."""


class CopiesModule(ABC):
    """A layer that calls one of several copies of a module in the place of the module itself.

    Implement it in the layers of a PEFT method that work so. The PEFT backend then leaves the
    original out of θ, and refuses a θ and a φ that are both copies of one module.
    """

    @property
    @abstractmethod
    def original(self) -> nn.Module:
        """The module of the base, which is not called while a copy is active."""


class RoutesRows(ABC):
    """A backend that runs the rows of one batch through different adapters in one forward pass.

    Implement it where the library has such a pass. Without it, the rows of each language make a
    pass of their own, in evaluation only.
    """

    @abstractmethod
    def routing(self, languages: Sequence[Language]) -> AbstractContextManager[object] | None:
        """A context in which `module` runs each row in its language; `None` if that is impossible.

        Args:
            languages: The language of each row.
        """


Division: TypeAlias = AbstractContextManager[Mapping[int, Tensor]]
"""Gives, for the `id` of each parameter of φ_l, the leaf in the same memory that its twin has."""


class DividesRows(ABC):
    """A backend that runs the first rows of a batch through a twin of an adapter.

    Implement it where rows can be routed. The gradient of those rows for φ_l is then the gradient
    for the twin, from one pass over the whole batch.
    """

    @abstractmethod
    def dividing(self, language: Language, first: int, rows: int) -> Division | None:
        """A context in which `module` does so; `None` if that is impossible.

        Args:
            language: The language.
            first: How many rows the twin takes.
            rows: How many rows the batch has.
        """


class MergesLanguages(ABC):
    """A backend whose adapters can become part of the weights of the base.

    Implement it for methods that are linear in the weights of the base; `merge_language` needs it.
    """

    @abstractmethod
    def merged(self, language: Language) -> nn.Module:
        """Compute a transformers model without adapters that equals this one in a language."""


class KeepsContext(ABC):
    """A backend whose library keeps state outside of the model during a forward pass.

    Implement it if a layer that is recomputed in a backward pass has to find that state again.
    """

    @abstractmethod
    def enable_checkpointing(self, arguments: Mapping[str, object], **options: object) -> None:
        """Do what `gradient_checkpointing_enable` of transformers does, and restore the state.

        Args:
            arguments: The arguments of `torch.utils.checkpoint.checkpoint`.
            **options: The other arguments of `gradient_checkpointing_enable`.
        """


class RemovesLanguages(ABC):
    """A backend that can take the parameters of a language out of a model again.

    Implement it so that no trace of φ_l stays in the model; `remove_language` needs it.
    """

    @abstractmethod
    def remove(self, language: Language, other: Language) -> None:
        """Delete φ_l.

        Args:
            language: The language.
            other: A language that stays, and that is active afterwards.
        """


class ChecksMeans(ABC):
    """A backend with methods whose parameters have no meaningful mean.

    Implement it if some parameters satisfy a constraint that a mean breaks, such as orthogonality.
    """

    @abstractmethod
    def check_mean(self) -> None:
        """Raise a `ConfigurationError` if a mean of adapters is not an adapter of the method."""


class ExportsLora(ABC):
    """A backend, or a `SharedPart`, that can write θ and φ together as one LoRA.

    Implement it where both are products of two matrices; `export_lora` needs it.
    """

    @abstractmethod
    def export_lora(self, language: Language, directory: Path, base_name: str | None) -> None:
        """Write one LoRA of PEFT that alone computes what the model does in a language.

        Args:
            language: The language; a `SharedPart`, which is active in all, ignores it.
            directory: The folder to write to.
            base_name: What the base model is called, if it has a name.
        """


@dataclass(frozen=True)
class MergedUpdate:
    """How adapters of several families become one, and where it is written.

    Args:
        folder: The folder to write to.
        weights: The weight of each adapter; their sum is 1.
        density: The share of the entries of each update that TIES keeps; `None` for the weighted
            sum of the updates.
        one_rank: Whether the result has to be of the configuration of the first adapter, as the
            adapter of a language among others has.
    """

    folder: Path
    weights: Sequence[float]
    density: float | None
    one_rank: bool


class MergesUpdates(ABC):
    """A backend that merges saved adapters by what they add to the weights of the base.

    Implement it where the parameters themselves have no meaningful mean, such as the two factors of
    LoRA; `merge_families` uses it. Without it, parameters are averaged one by one.
    """

    @classmethod
    @abstractmethod
    def can_merge_updates(cls, folder: Path) -> bool:
        """Whether a saved adapter is of a method that is merged so."""

    @classmethod
    @abstractmethod
    def merge_updates(
        cls, empty: Callable[[], nn.Module], folders: Sequence[Path], merged: MergedUpdate
    ) -> None:
        """Write one adapter in place of several.

        Args:
            empty: Makes a base model with the right shapes and without memory for its weights.
            folders: The folders of the adapters, in the format of the backend's own library.
            merged: How they are merged, and where to.
        """

"""Language-specific parameters by AdapterHub's library `adapters`: an adapter per language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from adapters import AdapterCompositionBlock, AdapterConfig, BatchSplit, Stack
from adapters.context import ForwardContext
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends._adapter_names import AdapterNames
from hf_meta_adapters.backends.abilities import (
    ChecksMeans,
    KeepsContext,
    RemovesLanguages,
    RoutesRows,
)
from hf_meta_adapters.backends.adapters._configs import check_config, check_mean, splits_batches
from hf_meta_adapters.backends.adapters._files import read_adapter, read_config, write_adapter
from hf_meta_adapters.backends.adapters._models import (
    OTHERWISE,
    check_added,
    check_bare,
    initialise,
)
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.backends.recomputation import Anew, Contexts
from hf_meta_adapters.errors import UnsupportedModelError


class AdaptersBackend(Backend, ChecksMeans, KeepsContext, RemovesLanguages, RoutesRows):
    """One adapter per language, for any `AdapterConfig` of `adapters` but prompts and DiReFT.

    Args:
        model: The transformers model.
        config: The configuration of the adapter of every language.

    Raises:
        UnsupportedModelError: If the library does not know the architecture, changes what the model
            computes, or has changed the model already.
        ConfigurationError: If the configuration does not suit languages.
    """

    name: ClassVar[str] = "adapters"
    config: AdapterConfig

    def __init__(self, model: nn.Module, config: AdapterConfig) -> None:
        super().__init__(model, config)
        self._model: Any = model
        self._names: AdapterNames | None = None
        check_config(config)
        check_bare(model)

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self.base

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside the library: the language, unless it could be mistaken."""
        if self._names is None:
            raise RuntimeError("The backend has no adapter yet. Call `add` first.")
        return self._names.of(language)

    def add(self, language: Language) -> None:
        """Create an adapter, on the device and in the precision of the model."""
        if self._names is None:
            # with the first language, so that a refused configuration leaves the model as it is
            initialise(self.base, self.config)
            self._names = AdapterNames(self.base, [nn.ModuleDict()])

        name = self.adapter(language)
        try:
            # raises for methods that the library lacks for an architecture
            self._model.add_adapter(name, config=self.config)
        except ValueError as error:
            raise UnsupportedModelError(
                "The adapter must be one that the library `adapters` has for the model. Found"
                f" `{type(self.config).__name__}` for `{type(self.base).__name__}`: {error}"
                f" {OTHERWISE}"
            ) from error

        state = self._state(language)
        if not state:
            raise UnsupportedModelError(
                f"The adapter must find a place in the model. Found none for {self.config} in"
                f" `{type(self.base).__name__}`. Change its settings."
            )
        check_added(self.base, name, self.config)

        # the library creates adapters in float32 on the CPU
        for path, tensor in state.items():
            tensor.data = tensor.data.to(self._model.device, self._model.dtype)
            if not isinstance(tensor, nn.Parameter):
                self._make_parameter(path)

    def activate(self, language: Language) -> None:
        """Name the adapter that the layers use.

        `set_active_adapters` would visit all modules each time, in search of merged LoRA weights.
        """
        self._model.adapters_config.active_setup = Stack(self.adapter(language))

    def remove(self, language: Language, other: Language) -> None:
        """Delete an adapter, also from the pool of prefixes."""
        self.activate(other)
        self._model.delete_adapter(self.adapter(language))

    def save(self, language: Language, directory: Path) -> None:
        """Write what `model.load_adapter(directory, use_safetensors=True)` reads."""
        write_adapter(directory, self._model, self.adapter(language), self._state(language))

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read what the library or `save` wrote, after a comparison of configuration and shapes.

        `body` is not needed: all adapters are in the body, and their names say where that is.
        """
        state = self._state(language)
        weights = read_adapter(
            directory, self._model, self.adapter(language), state, self._paths(language)
        )

        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(weights[name])

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> AdapterConfig:
        """Read `adapter_config.json`; it names no modules, so that `body` changes nothing."""
        return read_config(directory)

    def routing(self, languages: Sequence[Language]) -> AbstractContextManager[None] | None:
        """`BatchSplit` for bottleneck adapters.

        Other methods do not know it, or run all rows through the first adapter.
        """
        if not splits_batches(self.config):
            return None

        # `BatchSplit` takes slices: rows of one language that are apart name it once per slice
        runs = [(key, len(list(rows))) for key, rows in groupby(languages)]
        names = [self.adapter(key) for key, _ in runs]
        return self._active(BatchSplit(*names, batch_sizes=[size for _, size in runs]))

    def enable_checkpointing(self, arguments: Mapping[str, object], **options: object) -> None:
        """Recompute activations through the adapters, and with the state, of their forward pass.

        The library's own method keeps the state of a pass, but would use the adapters of the last
        pass.
        """

        def contexts() -> Contexts:
            setup = self._model.adapters_config.active_setup
            state = ForwardContext.get_context()

            # the adapters are set anew each time; the state is a context that can be entered again
            return nullcontext(), Anew(lambda: self._active(setup), lambda: state)

        # past the override of the library, which passes a `context_fn` of its own
        PreTrainedModel.gradient_checkpointing_enable(
            self._model, {**arguments, "context_fn": contexts}, **options
        )

    def check_mean(self) -> None:
        """Refuse the mean of orthogonal matrices."""
        check_mean(self.config)

    @contextmanager
    def _active(self, setup: AdapterCompositionBlock) -> Iterator[None]:
        """A context in which forward passes use these adapters."""
        config = self._model.adapters_config
        before, config.active_setup = config.active_setup, setup

        try:
            yield
        finally:
            config.active_setup = before

    def _make_parameter(self, path: str) -> None:
        """Make a buffer of an adapter a frozen parameter.

        A language that starts as a copy of another copies parameters, and needs this one as well.
        """
        parent, _, name = path.rpartition(".")
        module = self.base.get_submodule(parent)
        buffer = module.get_buffer(name)

        # torch refuses a parameter under the name of a buffer
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(buffer, requires_grad=False))

    def _state(self, language: Language) -> dict[str, Tensor]:
        """The tensors of an adapter, each once."""
        state = self.base.state_dict(keep_vars=True)
        return {path: state[path] for path in self._paths(language).values()}

    def _paths(self, language: Language) -> dict[str, str]:
        """Every path of a tensor of an adapter → the shortest path of that tensor.

        The pool of prefixes is a part of every layer as well, so its tensors have many paths.
        """
        adapter = self.adapter(language)

        by_tensor: dict[int, list[str]] = {}
        for path, tensor in self.base.state_dict(keep_vars=True).items():
            if adapter in path.split("."):
                by_tensor.setdefault(id(tensor), []).append(path)

        shortest = {}
        for paths in by_tensor.values():
            shortest.update(dict.fromkeys(paths, min(paths, key=len)))

        return shortest

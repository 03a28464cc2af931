"""Language-specific parameters by AdapterHub's library `adapters`: one of its adapters for each language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
from hf_meta_adapters.backends.abilities import ChecksMeans, KeepsContext, RoutesRows
from hf_meta_adapters.backends.adapters._files import read_adapter, read_config, write_adapter
from hf_meta_adapters.backends.adapters._support import (
    OTHERWISE,
    check_added,
    check_bare,
    check_config,
    check_mean,
    initialise,
    splits_batches,
)
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.backends.recomputation import Anew
from hf_meta_adapters.errors import UnsupportedModelError

_PREFIX = "language_"
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*")


class AdaptersBackend(Backend, ChecksMeans, KeepsContext, RoutesRows):
    """One adapter of the library `adapters` per language, for any `AdapterConfig` but prompts and DiReFT.

    Args:
        model: The transformers model.
        config: The configuration of the adapter of every language.

    Raises:
        UnsupportedModelError: If the library does not know the architecture, changes what the model
            computes, or has been at work in the model already.
        ConfigurationError: If the configuration does not go with languages.
    """

    name: ClassVar[str] = "adapters"

    def __init__(self, model: nn.Module, config: AdapterConfig) -> None:
        super().__init__(model, config)
        self._model: Any = model
        self._components: set[str] = set()
        check_config(config)
        check_bare(model)

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self.base

    def add(self, language: Language) -> None:
        """Create an adapter, where the model is and in its precision."""
        if not self._components:
            initialise(self.base, self.config)
            names = [*self.base.state_dict(), *(name for name, _ in self.base.named_modules())]
            self._components = {part for name in names for part in name.split(".")}
        name = self.adapter(language)
        try:
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
                f"The adapter must find a place in the model. Found none for {self.config} in "
                f"`{type(self.base).__name__}`. Write other settings."
            )
        check_added(self.base, name, self.config)
        for path, tensor in state.items():
            tensor.data = tensor.data.to(self._model.device, self._model.dtype)
            if not isinstance(tensor, nn.Parameter):
                self._make_parameter(path)

    def activate(self, language: Language) -> None:
        """Name the adapter that the layers use.

        `set_active_adapters` would go through all modules each time, for merged LoRA weights, of
        which there are none.
        """
        self._model.adapters_config.active_setup = Stack(self.adapter(language))

    def save(self, language: Language, directory: Path) -> None:
        """Write what `model.load_adapter(directory, use_safetensors=True)` reads."""
        write_adapter(directory, self._model, self.adapter(language), self._state(language))

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read an adapter that the library or `save` wrote, after comparing configuration, names and shapes.

        Its names say where the body is, and no adapter is outside of it, so that `body` is not
        needed.
        """
        state = self._state(language)
        found = read_adapter(
            directory, self._model, self.adapter(language), state, self._names(language)
        )
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(found[name])

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> AdapterConfig:
        """Read `adapter_config.json`; it names no modules, so that it is the same for every class."""
        return read_config(directory)

    def routing(self, adapters: Sequence[Language]) -> AbstractContextManager[Any] | None:
        """`BatchSplit` for bottleneck adapters; other methods do not know it, or run all rows through the first one."""
        if not splits_batches(self.config):
            return None
        runs = [(key, len(list(rows))) for key, rows in groupby(adapters)]
        return self._active(
            BatchSplit(
                *(self.adapter(key) for key, _ in runs), batch_sizes=[size for _, size in runs]
            )
        )

    def enable_checkpointing(self, arguments: dict[str, Any], **options: Any) -> None:
        """Recompute activations through the adapters, and beside the state, of their own forward pass.

        The library's own method keeps the state of a pass, but would use the adapters of the last
        pass.
        """

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            setup, state = self._model.adapters_config.active_setup, ForwardContext.get_context()
            return nullcontext(), Anew(lambda: self._active(setup), lambda: state)

        PreTrainedModel.gradient_checkpointing_enable(
            self._model, {**arguments, "context_fn": contexts}, **options
        )

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside the library: the language, unless that could be mistaken there.

        A language tag is kept that is no part of the model's own names ("wo", Wolof, in T5) and no
        attribute of a module dictionary ("to", Tongan).
        """
        kept = _TAG.fullmatch(language) and not hasattr(nn.ModuleDict(), language)
        name = language if kept else f"{_PREFIX}{language}"
        return f"{_PREFIX}{name}" if name in self._components else name

    def check_mean(self) -> None:
        """Refuse the mean of orthogonal matrices."""
        check_mean(self.config)

    @contextmanager
    def _active(self, setup: AdapterCompositionBlock) -> Iterator[None]:
        """Use adapters in the forward passes inside, and those of before afterwards."""
        config = self._model.adapters_config
        before, config.active_setup = config.active_setup, setup
        try:
            yield
        finally:
            config.active_setup = before

    def _make_parameter(self, path: str) -> None:
        """Make a buffer of an adapter a frozen parameter, which a new language that starts from this one gets, too."""
        parent, _, name = path.rpartition(".")
        part = self.base.get_submodule(parent)
        tensor = getattr(part, name)
        delattr(part, name)
        part.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def _state(self, language: Language) -> dict[str, Tensor]:
        """The tensors of an adapter, each once."""
        state = self.base.state_dict(keep_vars=True)
        return {name: state[name] for name in self._names(language).values()}

    def _names(self, language: Language) -> dict[str, str]:
        """Every name of a tensor of an adapter → the shortest: the pool of prefixes is a part of every layer, too."""
        adapter = self.adapter(language)
        names: dict[int, list[str]] = {}
        for name, tensor in self.base.state_dict(keep_vars=True).items():
            if adapter in name.split("."):
                names.setdefault(id(tensor), []).append(name)
        return {name: min(same, key=len) for same in names.values() for name in same}

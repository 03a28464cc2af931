"""Which backend serves which configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from hf_meta_adapters.backends.abilities import MakesSharedParts
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.errors import ConfigurationError

BackendClass = TypeVar("BackendClass", bound=type[Backend])


def _plain() -> type[Backend]:
    from hf_meta_adapters.backends._plain import PlainBackend

    return PlainBackend


def _peft() -> type[Backend]:
    from hf_meta_adapters.backends.peft._backend import PeftBackend

    return PeftBackend


def _adapters() -> type[Backend]:
    from hf_meta_adapters.backends.adapters._backend import AdaptersBackend

    return AdaptersBackend


_BUILT_IN: dict[str, Callable[[], type[Backend]]] = {
    "none": _plain,
    "peft": _peft,
    "adapters": _adapters,
}
"""The name of a backend → what imports it: a library is imported when a model needs it."""

_LIBRARIES = {"peft": "peft", "adapters": "adapters"}
"""The top-level package that defines the class of a configuration → the name of its backend."""

_REGISTERED: dict[str, type[Backend]] = {}
"""The name of a backend that `register_backend` added → the class."""

_CONFIGURATIONS: dict[type, str] = {}
"""The class of a configuration, passed to `register_backend` → the name of its backend."""


def register_backend(config: type) -> Callable[[BackendClass], BackendClass]:
    """Make a backend serve the configurations of a class, as a decorator.

    `get_language_model` then takes such a configuration, and `from_pretrained` finds the backend by
    its `name`. Of several classes that a configuration inherits from, the most specific decides.
    Registering a class again changes nothing; a class that is defined again, such as by a notebook
    cell, takes the place of the earlier one.

    Args:
        config: The class of the configurations, or a class that they inherit from.

    Returns:
        A decorator, which returns the class unchanged.

    Raises:
        ConfigurationError: If `config` is not a class or is already served by another backend, or
            if the decorated class is not a complete backend with a name of its own.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from torch import nn
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import get_language_model, register_backend
        >>> from hf_meta_adapters.backends import Backend
        >>> @dataclass
        ... class VectorConfig:
        ...     size: int = 2
        >>> @register_backend(VectorConfig)
        ... class VectorBackend(Backend):
        ...     name = "vector"
        ...     module = property(lambda self: self.base)
        ...     def add(self, language):
        ...         vector = nn.Parameter(torch.zeros(self.config.size))
        ...         self.base.register_parameter(f"vector_{language}", vector)
        ...     def activate(self, language): ...
        ...     def save(self, language, directory): ...
        ...     def load(self, language, directory, body=None): ...
        ...     @classmethod
        ...     def saved_config(cls, directory, body=None): ...
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...              intermediate_size=16, vocab_size=9)
        >>> base = BertModel(BertConfig(**sizes))
        >>> model = get_language_model(base, VectorConfig(), languages=["en", "sw"])
        >>> list(model.language_parameters("sw"))
        ['model.vector_sw']
    """
    _check_configuration(config)

    def register(backend: BackendClass) -> BackendClass:
        _check_backend(backend)
        _check_free(backend, config)

        _REGISTERED[backend.name] = backend
        _CONFIGURATIONS[config] = backend.name
        return backend

    return register


def backend_named(name: str) -> type[Backend]:
    """Find the backend that a saved model records.

    Args:
        name: The name.

    Returns:
        The class of the backend.

    Raises:
        ConfigurationError: If no backend has the name, or its library is not installed.

    Example:
        >>> backend_named("peft").__name__
        'PeftBackend'
    """
    if name in _REGISTERED:
        return _REGISTERED[name]

    if name not in _BUILT_IN:
        raise ConfigurationError(
            f"A backend must be one of {_names()}. Found {name!r}. Install the version of"
            " hf-meta-adapters that wrote the model, or a newer one; if the backend is your own,"
            " import the module that registers it."
        )

    try:
        return _BUILT_IN[name]()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The library of a backend must be installed. Found no `{error.name}`, which the"
            f' backend "{name}" needs. Run `pip install "hf-meta-adapters[{name}]"`.'
        ) from error


def backend_for(config: object) -> type[Backend]:
    """Find the backend that serves a configuration, by the configuration's type.

    Args:
        config: A `peft.PeftConfig` (`BottleneckConfig` is one), an `adapters.AdapterConfig`, an
            instance of a class passed to `register_backend`, or `None` for no language-specific
            parameters.

    Returns:
        The class of the backend.

    Raises:
        ConfigurationError: If no backend serves the type.

    Example:
        >>> from peft import LoraConfig
        >>> backend_for(LoraConfig()).name
        'peft'
    """
    if config is None:
        return backend_named("none")

    # From the most specific class on: a class of a user's own may inherit from one of a library.
    # The package of a class tells the library, without an import of those that are not installed.
    for base in type(config).__mro__:
        if base in _CONFIGURATIONS:
            return backend_named(_CONFIGURATIONS[base])

        package = base.__module__.partition(".")[0]
        if package in _LIBRARIES:
            return backend_named(_LIBRARIES[package])

    raise ConfigurationError(
        "`config` must say what the parameters of a language are: a PeftConfig such as"
        " BottleneckConfig() or LoraConfig(), an AdapterConfig of the library adapters such as"
        " SeqBnConfig(), the configuration of a backend of your own, or None for none. Found"
        f" {config!r} of type `{type(config).__name__}`."
    )


def shared_part_backend() -> type[MakesSharedParts]:
    """The backend whose library puts θ into a model where θ is an adapter itself: PEFT."""
    backend = backend_named("peft")
    assert issubclass(backend, MakesSharedParts)
    return backend


def _names() -> list[str]:
    return [*_BUILT_IN, *_REGISTERED]


def _check_configuration(config: object) -> None:
    """Refuse what is not a class of configurations, such as the backend below a bare decorator."""
    if not isinstance(config, type) or config is object or issubclass(config, Backend):
        raise ConfigurationError(
            "`register_backend` needs the class of the configurations that the backend serves."
            f" Found {config!r}. Use `@register_backend(MyConfig)`."
        )


def _check_backend(backend: object) -> None:
    """Refuse what is not a class from which a backend can be made."""
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise ConfigurationError(
            f"A backend must be a subclass of `Backend`. Found {backend!r}. Derive it from"
            " `hf_meta_adapters.backends.Backend`."
        )

    if inspect.isabstract(backend):
        raise ConfigurationError(
            "A backend must implement all methods of the interface. Found that"
            f" `{backend.__name__}` lacks {sorted(backend.__abstractmethods__)}. Define them."
        )

    name = getattr(backend, "name", None)  # `Backend` only declares it
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            "A backend must define the name under which saved models record it. Found"
            f" {name!r} in `{backend.__name__}`. Set `name`, for example"
            f' `name = "{backend.__name__.lower()}"`.'
        )


def _check_free(backend: type[Backend], config: type) -> None:
    """Refuse a name or a class of configurations that belongs to another backend."""
    # a notebook runs a cell again, and the class that results is another object
    namesake = _REGISTERED.get(backend.name)
    is_taken = namesake is not None and not _is_same_definition(namesake, backend)
    if is_taken or backend.name in _BUILT_IN:
        raise ConfigurationError(
            f"A backend must have a name of its own. Found {backend.name!r}, which is taken;"
            f" {_names()} are. Set another `name` in `{backend.__name__}`."
        )

    # the same backend may serve several classes of configurations
    server = _CONFIGURATIONS.get(config, backend.name)
    if server != backend.name:
        raise ConfigurationError(
            f"A configuration must have one backend. Found that `{config.__name__}` is served by"
            f" {server!r} already. Pass `register_backend` a class of configurations that"
            f" `{backend.__name__}` alone serves."
        )


def _is_same_definition(first: type, second: type) -> bool:
    """Whether two classes come from one `class` statement, which may have run twice."""
    names = [(each.__module__, each.__qualname__) for each in (first, second)]
    return names[0] == names[1]

"""Which backend serves which configuration."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.errors import ConfigurationError

_BACKENDS: dict[str, tuple[str, str]] = {
    "none": ("hf_meta_adapters.backends._plain", "PlainBackend"),
    "peft": ("hf_meta_adapters.backends.peft._backend", "PeftBackend"),
    "adapters": ("hf_meta_adapters.backends.adapters._backend", "AdaptersBackend"),
}
"""The name of a backend → its module and class; a backend is imported when it is needed."""

_LIBRARIES = {"peft": "peft", "adapters": "adapters"}
"""The top-level package that a configuration's class comes from → the name of its backend."""


def register_backend(name: str, backend: type[Backend], *, package: str) -> None:
    """Make a backend serve the configurations of a library.

    Args:
        name: The name under which a saved model records it.
        backend: The class.
        package: The top-level package that the classes of its configurations come from.

    Raises:
        ConfigurationError: If the name or the package has a backend already.
    """
    if name in _BACKENDS or package in _LIBRARIES:
        raise ConfigurationError(
            f"A backend needs a name and a library of its own. Found {name!r} for {package!r},"
            f" beside the names {list(_BACKENDS)} and the libraries {list(_LIBRARIES)}. Choose"
            " another name."
        )
    _BACKENDS[name] = (backend.__module__, backend.__name__)
    _LIBRARIES[package] = name


def backend_named(name: str) -> type[Backend]:
    """The backend that a saved model records.

    Args:
        name: The name.

    Returns:
        The class of the backend.

    Raises:
        ConfigurationError: If there is none of that name, or its library is not installed.

    Example:
        >>> backend_named("peft").__name__
        'PeftBackend'
    """
    if name not in _BACKENDS:
        raise ConfigurationError(
            f"A backend must be one of {list(_BACKENDS)}. Found {name!r}. Install the version of"
            " hf-meta-adapters that wrote the model, or a newer one."
        )
    module, attribute = _BACKENDS[name]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The library of a backend must be installed. Found no `{error.name}`, which the"
            f' backend "{name}" needs. Write `pip install "hf-meta-adapters[{name}]"`.'
        ) from error


def backend_for(config: Any) -> type[Backend]:
    """The backend that serves a configuration, by the type of the configuration.

    Args:
        config: A `peft.PeftConfig` (`BottleneckConfig` is one), an `adapters.AdapterConfig`, or
            `None` for no language-specific parameters.

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
    for base in type(config).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _LIBRARIES:
            return backend_named(_LIBRARIES[package])
    raise ConfigurationError(
        "`config` must say what the parameters of a language are: a PeftConfig such as"
        " BottleneckConfig() or LoraConfig(), an AdapterConfig of the library adapters such as"
        f" SeqBnConfig(), or None for none. Found {config!r} of type `{type(config).__name__}`."
    )

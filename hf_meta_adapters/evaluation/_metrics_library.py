"""Libraries of the extra `metrics`, which scores need and training does not."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["metrics_library"]


def metrics_library(name: str) -> ModuleType:
    """Import a module of scikit-learn, scipy or seqeval.

    Raises:
        ConfigurationError: If the library is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ConfigurationError(
            f"This metric needs {package}. Found no such package. Install it with"
            " `pip install hf-meta-adapters[metrics]`."
        ) from error

"""How language-specific parameters enter a model."""

from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.errors import moved_names

__all__ = ["Backend"]

__getattr__ = moved_names(
    __name__,
    {
        "ChecksMeans": "hf_meta_adapters.backends.abilities",
        "MergesLanguages": "hf_meta_adapters.backends.abilities",
        "ReplacesModules": "hf_meta_adapters.backends.abilities",
        "SharedPart": "hf_meta_adapters.backends.abilities",
        "TakesSharedPart": "hf_meta_adapters.backends.abilities",
        "backend_for": "hf_meta_adapters.backends.registry",
        "backend_named": "hf_meta_adapters.backends.registry",
        "register_backend": "hf_meta_adapters.backends.registry",
    },
)

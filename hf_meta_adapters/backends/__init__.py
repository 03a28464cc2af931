"""How language-specific parameters enter a model."""

from hf_meta_adapters.backends._abilities import (
    ChecksMeans,
    MergesLanguages,
    ReplacesModules,
    SharedPart,
    TakesSharedPart,
)
from hf_meta_adapters.backends._base import Backend
from hf_meta_adapters.backends._registry import backend_for, backend_named

__all__ = [
    "Backend",
    "ChecksMeans",
    "MergesLanguages",
    "ReplacesModules",
    "SharedPart",
    "TakesSharedPart",
    "backend_for",
    "backend_named",
]

"""Languages that are compared by their adapters need adapters of their own."""

from __future__ import annotations

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["check_own_adapters"]


def check_own_adapters(model: LanguageAdapterModel) -> None:
    """Refuse a model whose languages have no adapters of their own.

    Raises:
        ConfigurationError: If the languages share one adapter, or have none.
    """
    if model.share_adapter or model.backend.name == "none":
        raise ConfigurationError(
            "Languages are compared by their adapters. Found a model whose languages have none of"
            " their own. Create it with a configuration of adapters, and without `share_adapter`."
        )

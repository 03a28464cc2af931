"""A base model and a configuration, put together as a model with languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import SharedPart
from hf_meta_adapters.backends.registry import backend_for
from hf_meta_adapters.errors import ConfigurationError, MetaAdapterError, check_languages


class HasLanguages(Protocol):
    """What building needs of a class of models with languages."""

    shared_part: SharedPart | None

    def __init__(self, backend: Backend, *, shared: object, share_adapter: bool) -> None:
        """Put θ in place, without any language."""

    def add_language(self, language: Language) -> None:
        """Give the model a further language."""

    def shared_parameters(self) -> Mapping[str, nn.Parameter]:
        """θ."""


Model = TypeVar("Model", bound=HasLanguages)


def build_model(
    model_class: type[Model],
    base_model: nn.Module,
    config: object,
    languages: Sequence[Language],
    *,
    shared: object,
    share_adapter: bool,
) -> Model:
    """Put θ and then each language into a base model, and take θ out again if a language fails.

    Args:
        model_class: The class of the model, usually `LanguageAdapterModel`.
        base_model: As for `get_language_model`, like all the others.
        config: The configuration of the adapters.
        languages: The keys of the languages.
        shared: What θ is.
        share_adapter: Whether all languages share one adapter.

    Raises:
        LanguageError: If a key is malformed or comes twice.
        ConfigurationError: If the configuration is of no known type, or nothing is left to θ.
        UnsupportedModelError: If the model has adapters already, or an adapter finds nothing in it
            to attach to.
    """
    keys = check_languages(languages)
    backend = backend_for(config)(base_model, config)
    model = model_class(backend, shared=shared, share_adapter=share_adapter)

    try:
        for key in keys:
            model.add_language(key)
        _check_theta(model, shared)

    except MetaAdapterError:
        # the base is the user's, who will try again with other settings
        if model.shared_part is not None:
            model.shared_part.remove()
        raise

    return model


def _check_theta(model: HasLanguages, shared: object) -> None:
    """Refuse a θ whose modules each language has its own copy of."""
    # "none" leaves nothing on purpose, and "all" does where the user has frozen the base
    if shared in ("all", "none") or model.shared_parameters():
        return

    raise ConfigurationError(
        "`shared` must leave parameters to θ. Found that each language has its own copy of all that"
        f' {shared!r} matches. Match other parameters as well, or use `shared="none"`.'
    )

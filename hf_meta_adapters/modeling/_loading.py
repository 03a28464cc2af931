"""A saved or published model, read as far as its adapters need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hf_meta_adapters._typing import Language, ModelClass
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import SharedPart
from hf_meta_adapters.backends.registry import backend_named
from hf_meta_adapters.errors import ConfigurationError, HubError, check_languages
from hf_meta_adapters.hub.base_model import BaseReference, body_name
from hf_meta_adapters.hub.checksums import check_adapter_files
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.download import fetch_family
from hf_meta_adapters.hub.foreign_errors import reading, reading_adapter
from hf_meta_adapters.hub.limits import Amount, amount_in, at_most
from hf_meta_adapters.hub.loading import check_adapter, load_base
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.hub.others import Others
from hf_meta_adapters.modeling._building import Model, build_model
from hf_meta_adapters.modeling._router import Router


@dataclass(frozen=True)
class Choices:
    """What a user of `from_pretrained` chooses; see there.

    Args:
        auto_class: The class that loads the shared weights; `None` for the one that was saved.
        languages: The languages; `None` for all.
        shared: What θ is from now on; `None` for what was saved.
        model_arguments: Further arguments of the class's `from_pretrained`.
    """

    auto_class: ModelClass | None
    languages: Sequence[Language] | None
    shared: object
    model_arguments: Mapping[str, object]


@dataclass(frozen=True)
class SavedModel:
    """A saved model whose base is loaded, and whose adapters can be put into it.

    Args:
        folder: The folder, with the files of the languages.
        family: The manifest.
        languages: The languages to load.
        base: The base model.
        body: The prefix of the body's names, if the base is of another class than was saved.
        config: The configuration of the adapters of the languages; `None` if they have none.
        shared: As for `get_language_model`.
    """

    folder: Path
    family: Family
    languages: tuple[Language, ...]
    base: nn.Module
    body: str | None
    config: object
    shared: object

    @property
    def others(self) -> Others:
        """The languages that were saved and are not loaded."""
        return Others(frozenset(self.family.languages) - frozenset(self.languages))

    def reference(self, built: BaseReference) -> BaseReference:
        """The name of the base: of one that is only named, what the manifest has.

        Args:
            built: What the base itself tells, once it is part of a model.
        """
        if not self.family.theta_is_adapter:
            return built

        # transformers does not always record the commit that it loaded
        return BaseReference(self.family.base_model, self.family.base_revision, built.rows)


def open_saved(repo_or_path: str | Path, choices: Choices, access: Access) -> SavedModel:
    """Fetch a saved model, and load its base and the configurations of its adapters.

    Args:
        repo_or_path: The folder, or a repository on the Hub.
        choices: What the user chooses.
        access: How the repository is reached.

    Raises:
        HubError: If files are missing, foreign, damaged or unsafe, or cannot be downloaded.
        LanguageError: If a language is asked for that was not saved.
        ConfigurationError: If `shared` contradicts a θ that was saved as an adapter.
    """
    folder, family = fetch_family(repo_or_path, choices.languages, access)

    # `fetch_family` has refused languages that were not saved
    languages = family.languages
    if choices.languages is not None:
        languages = check_languages(choices.languages)

    base = load_base(folder, family, choices.auto_class, choices.model_arguments, access)
    body = None
    if type(base).__name__ != family.base_class:
        # a saved body without a head has no name, but one inside the head that it gets
        body = family.body or body_name(base)

    config = None
    adapters = family.adapters(languages)
    if adapters:
        # all have one configuration; reading an adapter compares it with that of the first
        with reading_adapter(folder / adapters[0]):
            config = backend_named(family.backend).saved_config(folder / adapters[0], body)

    shared = _saved_shared(folder, family, choices.shared, body)
    return SavedModel(folder, family, languages, base, body, config, shared)


def build_saved(model_class: type[Model], saved: SavedModel) -> Model:
    """Put the adapters of a saved model into its base, with the weights of fresh ones.

    Args:
        model_class: The class of the model.
        saved: The saved model.

    Raises:
        HubError: If the saved settings are none from which an adapter can be made, or ask for far
            more than the files hold.
    """
    folder, family = saved.folder, saved.family
    places = [folder / adapter for adapter in family.adapters(saved.languages)]
    if family.theta_is_adapter:
        places.append(folder / SHARED_ADAPTER)

    amount = amount_in(file for place in places for file in sorted(place.glob("*.safetensors")))

    # What a method computes anew when it is loaded, such as the network behind a prompt.
    amount += Amount(len(places) * 2**8, len(places) * 2**20)

    rule = "The settings of a saved adapter must be some from which one can be made."
    place = places[0] if places else folder
    with (
        reading(place, rule, "Download or save the model again"),
        at_most(amount, place),
    ):
        return build_model(
            model_class,
            saved.base,
            saved.config,
            saved.languages,
            shared=saved.shared,
            share_adapter=family.one_adapter_for_all,
        )


def check_own_adapters(router: Router) -> None:
    """Refuse a model whose languages have no adapters of their own.

    Raises:
        ConfigurationError: If they have none, or share one.
    """
    if not router.tells_languages_apart:
        raise ConfigurationError(
            "An adapter can be loaded for one language only if each has its own. Found"
            f" `share_adapter={router.shared_adapter is not None}` and the backend"
            f" {router.backend.name!r}. Use `get_language_model(model, config, languages)` with a"
            " `config` and without `share_adapter`."
        )


def load_adapter(backend: Backend, language: Language, folder: Path) -> None:
    """Read one adapter for a language: from a folder of its own, or from that of a saved model.

    Args:
        backend: The backend of the model.
        language: The language.
        folder: The folder of the adapter.

    Raises:
        HubError: If files are missing, pickled or damaged, or do not fit.
    """
    check_adapter(folder)
    check_adapter_files(folder)
    with reading_adapter(folder):
        backend.load(language, folder)


def load_adapters(saved: SavedModel, backend: Backend, shared_part: SharedPart | None) -> None:
    """Read the adapters of a saved model into a model that was built from it.

    Args:
        saved: The saved model.
        backend: The backend of the model.
        shared_part: θ, if it is an adapter.

    Raises:
        HubError: If files are damaged or do not fit; one error for all adapters together.
    """
    if saved.family.theta_is_adapter and shared_part is not None:
        with reading_adapter(saved.folder / SHARED_ADAPTER):
            shared_part.load(saved.folder / SHARED_ADAPTER, saved.body)

    errors: list[HubError] = []
    for adapter in saved.family.adapters(saved.languages):
        try:
            with reading_adapter(saved.folder / adapter):
                backend.load(adapter, saved.folder / adapter, saved.body)
        except HubError as error:
            errors.append(error)

    if len(errors) == 1:
        raise errors[0]

    # together, so that nobody repairs a large model file by file
    if errors:
        raise HubError("\n".join(map(str, errors))) from errors[0]


def _saved_shared(folder: Path, family: Family, shared: object, body: str | None) -> object:
    """What `get_language_model` takes as `shared`, from what was saved and what the user wants."""
    if not family.theta_is_adapter:
        return family.shared if shared is None else shared

    # the adapter is loaded in any case: "none" freezes it afterwards
    if shared not in (None, "none"):
        raise ConfigurationError(
            '`shared` must be "none", which freezes θ, or be left out if the saved θ is an adapter.'
            f' Found {shared!r}. Use `shared="none"`.'
        )
    with reading_adapter(folder / SHARED_ADAPTER):
        return backend_named("peft").saved_config(folder / SHARED_ADAPTER, body)

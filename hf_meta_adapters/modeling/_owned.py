"""A routed model that knows which of its parameters are θ, and which are φ of which language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import ChecksMeans, ReplacesModules
from hf_meta_adapters.errors import LanguageError, check_known_language, check_language
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER
from hf_meta_adapters.modeling._initialisation import check_mixture, mix_
from hf_meta_adapters.modeling._ownership import Ownership
from hf_meta_adapters.modeling._routed_model import RoutedModel
from hf_meta_adapters.modeling._theta import claim_shared


class OwnedModel(RoutedModel):
    """What of `LanguageAdapterModel` concerns the languages there are, and what is trained.

    Args:
        backend: What puts the parameters of a language into the model.
        shared: What θ is, see `get_language_model`.
        share_adapter: Whether all languages share one adapter.
    """

    def __init__(
        self, backend: Backend, *, shared: Any = "all", share_adapter: bool = False
    ) -> None:
        super().__init__(backend, SHARED_ADAPTER if share_adapter else None)
        self.share_adapter = share_adapter
        claim = claim_shared(backend, shared, share_adapter)
        self.shared, self.shared_part, self._base_name = claim.choice, claim.part, claim.base_name
        self._ownership: Ownership = claim.held.after(self)
        self._frozen: set[Language] = set()
        self._shared_frozen = False

    def add_language(
        self, language: Language, copy_from: Language | Mapping[Language, float] | None = None
    ) -> None:
        """Give the model a further language; the parameters of all others stay as they are.

        Args:
            language: Its key.
            copy_from: A language whose parameters the new one starts from, or the weights of
                several, of which it gets the mean parameter by parameter, φ_new = Σ_l w_l φ_l, such
                as `{"sw": 0.6, "en": 0.4}` (they must sum to 1 within 1e-6). Default a fresh
                adapter.

        Raises:
            LanguageError: If the key is malformed or taken, or a language to copy from is unknown.
            ConfigurationError: If the weights are not positive or do not sum to 1.
        """
        check_language(language)
        if twins := [key for key in self._languages if key.lower() == language.lower()]:
            raise LanguageError(
                "A new language must differ from those there are in more than upper and lower"
                f" case. Found {language!r} beside {twins[0]!r}. Write another key."
            )
        mixture = check_mixture(copy_from, self._languages)
        if len(mixture) > 1 and isinstance(self.backend, ChecksMeans):
            self.backend.check_mean()
        if not self.share_adapter:
            self._create(language, language)
        elif not self._languages:
            self._create(SHARED_ADAPTER, None)
        self._ownership.languages.setdefault(language, [])
        self._ownership.created.setdefault(language, [])
        self._languages.append(language)
        if mixture:
            target, *sources = (list(self._created(key).values()) for key in (language, *mixture))
            mix_(target, sources, list(mixture.values()))
        self._require_gradients()
        if self._language is not None:
            self.set_language(self._language)

    def train_only(self, *languages: Language, shared: bool = False) -> None:
        """Train φ_l of these languages and nothing else: all other parameters are frozen, θ too.

        `model.train_only("yo")` is what a language needs that is added to a trained model.
        Languages that are added afterwards are trained as well. `model.train_only(*model.languages,
        shared=True)` trains everything again.

        Args:
            *languages: Their keys.
            shared: Whether θ is trained, too.

        Raises:
            LanguageError: If the model does not have one of them.
        """
        self._frozen = set(self._languages) - {
            check_known_language(key, self._languages) for key in languages
        }
        self._shared_frozen = not shared
        self._require_gradients()

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """θ: the parameters that all languages share and that are trained, by their name in `named_parameters()`."""
        return {} if self._shared_frozen else self._named(self._ownership.shared)

    def language_parameters(self, language: Language) -> dict[str, nn.Parameter]:
        """φ_l: the parameters of one language that are trained, by their name in `named_parameters()`.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        key = check_known_language(language, self._languages)
        return {} if key in self._frozen else self._named(self._ownership.languages[key])

    def base_state_dict(self) -> dict[str, Tensor]:
        """The tensors of the base model under the names of its own checkpoint, without those of any language."""
        state = self.state_dict()
        return {name: state[now] for name, now in self._ownership.original.items()}

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are shared, language-specific and frozen."""
        print(self._ownership.count(self))

    def _create(self, adapter: str, owner: Language | None) -> None:
        """Create an adapter that belongs to a language, or to θ if `owner` is `None`."""
        known, held = set(self.modules()), self._ownership.held(self)
        self.backend.add(adapter)
        self.model = self.backend.module
        self._ownership = held.after(self, owner)
        if isinstance(self.backend, ReplacesModules):
            self._ownership = self._ownership.without(self, self.backend.replaced())
        for part in set(self.modules()) - known:
            part.training = self.base_model.training

    def _require_gradients(self) -> None:
        trained = [key for key in self._languages if key not in self._frozen]
        self._ownership.require_gradients(self, trained, shared=not self._shared_frozen)

    def _created(self, language: Language) -> dict[str, nn.Parameter]:
        return self._named(self._ownership.created[language])

    def _named(self, names: list[str]) -> dict[str, nn.Parameter]:
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in names}

"""A transformers model with parameters of its own for each language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_meta_adapters._names import Ownership, chosen_names
from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend, backend_for, backend_named
from hf_meta_adapters.errors import (
    HubError,
    LanguageError,
    check_known_language,
    check_language,
    check_languages,
)
from hf_meta_adapters.hub import SHARED_ADAPTER, Family, load_base, load_weights, read_manifest, save_family


def get_language_model(
    base_model: nn.Module,
    config: Any,
    languages: Sequence[Language],
    *,
    shared: str = "all",
    share_adapter: bool = False,
) -> LanguageAdapterModel:
    """Put parameters of their own for each language, φ_l, into a model; the rest of it is shared, θ.

    The model is changed in place, as by `peft.get_peft_model`. Fresh adapters are the identity where the method
    allows it (bottleneck, LoRA, (IA)³, LN tuning).

    Args:
        base_model: Any transformers model, with or without a head.
        config: What the parameters of a language are: a `peft.PeftConfig` (`BottleneckConfig`, `LoraConfig`, …), or
            `None` for none, which is the joint baseline (or, with one language, the monolingual one).
        languages: The keys of the languages, such as `["en", "sw"]`.
        shared: What θ is: `"all"` (every parameter that `base_model` trains, the default), `"none"` (the base is
            frozen), or a regular expression that is searched in the parameter names of `base_model`.
        share_adapter: One adapter for all languages instead of one each, a baseline of the paper. It is part of θ.

    Returns:
        The model.

    Raises:
        LanguageError: If a key is malformed or comes twice.
        ConfigurationError: If the configuration is of no known type, or `shared` matches no parameter.
        UnsupportedModelError: If the adapter finds nothing in the model to attach to.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), languages=["en", "sw"])
        >>> model.languages
        ('en', 'sw')
    """
    keys = check_languages(languages)
    backend = backend_for(config)(base_model, config)
    model = LanguageAdapterModel(backend, shared=shared, share_adapter=share_adapter)
    for key in keys:
        model.add_language(key)
    return model


class LanguageAdapterModel(nn.Module):
    """A model whose forward pass runs in a language: f(x; θ, φ_l).

    Made by `get_language_model` or `LanguageAdapterModel.from_pretrained`. The wrapper owns `requires_grad`: θ and every
    φ_l are trainable from the start, and switching languages never changes that. Everything else that the base model
    offers (`config`, `device`, …) is reached through the wrapper.

    Args:
        backend: What puts the parameters of a language into the model.
        shared: What θ is, see `get_language_model`.
        share_adapter: Whether all languages share one adapter.
    """

    def __init__(self, backend: Backend, *, shared: str = "all", share_adapter: bool = False) -> None:
        super().__init__()
        self.backend = backend
        self.model = backend.module
        self.shared = shared
        self.share_adapter = share_adapter
        self._ownership = Ownership.of_base(backend.base, chosen_names(backend.base, shared))
        self._languages: list[Language] = []
        self._language: Language | None = None

    @property
    def base_model(self) -> nn.Module:
        """The transformers model, with the adapters in it."""
        return self.backend.base

    @property
    def languages(self) -> tuple[Language, ...]:
        """The keys of the languages, in the order in which they were added."""
        return tuple(self._languages)

    @property
    def language(self) -> Language | None:
        """The language in which a forward pass runs that names none."""
        return self._language

    def forward(self, language: Language | None = None, **inputs: Any) -> Any:
        """Run the model in a language.

        Args:
            language: The key; default the language of `set_language` or `use_language`.
            **inputs: The inputs of the base model.

        Returns:
            What the base model returns.

        Raises:
            LanguageError: If the language is unknown, or none was given or set.
        """
        if language is None:
            self._check_set()
            return self.model(**inputs)
        with self.use_language(language):
            return self.model(**inputs)

    def generate(self, *args: Any, language: Language | None = None, **inputs: Any) -> Any:
        """Generate text in a language; arguments as for the base model's `generate`."""
        if language is None:
            self._check_set()
            return self.backend.module.generate(*args, **inputs)
        with self.use_language(language):
            return self.backend.module.generate(*args, **inputs)

    def set_language(self, language: Language) -> None:
        """Make `language` the one in which forward passes run.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        check_known_language(language, self._languages)
        if language != self._language:
            self.backend.activate(SHARED_ADAPTER if self.share_adapter else language)
            self._language = language

    @contextmanager
    def use_language(self, language: Language) -> Iterator[LanguageAdapterModel]:
        """A context in which forward passes run in `language`; the language before is set again on leaving."""
        before = self._language
        self.set_language(language)
        try:
            yield self
        finally:
            if before is None:
                self._language = None
            else:
                self.set_language(before)

    def add_language(self, language: Language, copy_from: Language | None = None) -> None:
        """Give the model a further language.

        Args:
            language: Its key.
            copy_from: A language whose parameters the new one starts from; default a fresh adapter.

        Raises:
            LanguageError: If the key is malformed or taken, or `copy_from` is unknown.
        """
        check_language(language)
        if language.lower() in {SHARED_ADAPTER, *(key.lower() for key in self._languages)}:
            raise LanguageError(f"A new language must have a key of its own. Found {language!r}, which is taken.")
        if copy_from is not None:
            check_known_language(copy_from, self._languages)
        if not (self.share_adapter and self._languages):
            held = self._ownership.held(self if self._languages else self.backend.base)
            self.backend.add(SHARED_ADAPTER if self.share_adapter else language)
            self.model = self.backend.module
            self._ownership = held.after(self, None if self.share_adapter else language)
        self._ownership.languages.setdefault(language, [])
        self._languages.append(language)
        if copy_from is not None:
            source, target = self.language_parameters(copy_from), self.language_parameters(language)
            for old, new in zip(source.values(), target.values(), strict=True):
                new.data.copy_(old.data)
        self._ownership.require_gradients(self)
        if self._language is not None:
            self.backend.activate(SHARED_ADAPTER if self.share_adapter else self._language)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """θ: the parameters that all languages share and that are trained, by their name in `named_parameters()`."""
        return self._named(self._ownership.shared)

    def language_parameters(self, language: Language) -> dict[str, nn.Parameter]:
        """φ_l: the parameters of one language, by their name in `named_parameters()`.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        return self._named(self._ownership.languages[check_known_language(language, self._languages)])

    def base_state_dict(self) -> dict[str, Tensor]:
        """The tensors of the base model under the names of its own checkpoint, without those of any language."""
        state = self.state_dict()
        return {name: state[now] for name, now in self._ownership.original.items()}

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are shared, language-specific and frozen."""
        print(self._ownership.count(self))

    def save_pretrained(self, save_directory: str | Path, **details: Any) -> None:
        """Write the shared weights as a transformers checkpoint and each language as an adapter of its own library.

        Args:
            save_directory: The folder; `<save_directory>/<language>/` holds the adapters.
            **details: Anything JSON that should be recorded in `language_adapters.json`, such as the training set-up.
        """
        family = Family(
            languages=self.languages,
            backend=self.backend.name,
            shared=self.shared,
            share_adapter=self.share_adapter,
            base_class=type(self.base_model).__name__,
            details=details,
        )
        save_family(Path(save_directory), family, self.backend, self.base_state_dict())

    def load_weights(self, path: str | Path) -> None:
        """Read θ and every φ_l of this very model from what `save_pretrained` wrote, in place.

        Args:
            path: The folder.

        Raises:
            HubError: If the files are of another model, or damaged.
        """
        folder = Path(path)
        family = read_manifest(folder)
        if family.share_adapter != self.share_adapter or not set(self._languages) <= set(family.languages):
            raise HubError(
                f"A checkpoint must be of this model, with languages {list(self._languages)}. Found in {folder} one "
                f"with {list(family.languages)} and share_adapter={family.share_adapter}."
            )
        load_weights(folder, family, self.backend, self.base_state_dict(), self.languages)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        auto_class: Any = None,
        languages: Sequence[Language] | None = None,
        **model_arguments: Any,
    ) -> LanguageAdapterModel:
        """Load what `save_pretrained` wrote.

        Args:
            path: The folder.
            auto_class: The class that loads the shared weights, such as `AutoModelForTokenClassification` to put a
                new head on the same body; default the class that was saved.
            languages: The languages to load; default all.
            **model_arguments: Further arguments of the class's `from_pretrained`, such as `num_labels`.

        Returns:
            The model, in evaluation mode, as transformers models are after loading.

        Raises:
            HubError: If files are missing, foreign or damaged.
            LanguageError: If a language is asked for that was not saved.
        """
        folder = Path(path)
        family = read_manifest(folder)
        wanted = family.languages if languages is None else check_languages(languages)
        for key in wanted:
            check_known_language(key, family.languages, what=f"those saved in {folder.name}")
        folders = [folder / adapter for adapter in family.adapters(wanted)]
        config = backend_named(family.backend).saved_config(folders[0]) if folders else None
        base = load_base(folder, family, auto_class, model_arguments)
        model = get_language_model(base, config, wanted, shared=family.shared, share_adapter=family.share_adapter)
        for adapter in family.adapters(wanted):
            model.backend.load(adapter, folder / adapter)
        return model.eval()

    def __getattr__(self, name: str) -> Any:
        """Look further in the base model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("model", "backend") or name.startswith("_"):
                raise
            return getattr(self.model, name)

    def _check_set(self) -> None:
        if self._language is None and len(self._languages) > 1 and self.backend.name != "none":
            raise LanguageError(
                f"A forward pass must run in a language of this model: {list(self._languages)}. Found none. Write "
                f'`model(language="{self._languages[0]}", ...)`, `model.set_language(...)` or '
                "`with model.use_language(...):`."
            )
        if self._language is None and self._languages:
            self.set_language(self._languages[0])

    def _named(self, names: list[str]) -> dict[str, nn.Parameter]:
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in names}

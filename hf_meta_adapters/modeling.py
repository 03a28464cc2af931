"""A transformers model with parameters of its own for each language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_meta_adapters._names import Ownership, chosen_names
from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend, backend_for, backend_named
from hf_meta_adapters.backends._routing import RoutedModel
from hf_meta_adapters.errors import LanguageError, check_known_language, check_language, check_languages
from hf_meta_adapters.hub import SHARED_ADAPTER, Family, body_name, load_base, load_weights, read_manifest, save_family


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
        UnsupportedModelError: If the model has adapters already, or the adapter finds nothing in it to attach to.

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


class LanguageAdapterModel(RoutedModel):
    """A model whose forward pass runs in a language: f(x; θ, φ_l).

    Made by `get_language_model` or `LanguageAdapterModel.from_pretrained`. The wrapper owns `requires_grad`: θ and
    every φ_l are trainable from the start, and switching languages never changes that. Everything else that the base
    model and PEFT offer (`config`, `device`, `get_base_model()`, …) is reached through the wrapper.

    Args:
        backend: What puts the parameters of a language into the model.
        shared: What θ is, see `get_language_model`.
        share_adapter: Whether all languages share one adapter.

    Example:
        >>> import tempfile, torch
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> config = LoraConfig(target_modules=["query"])
        >>> model = get_language_model(BertModel(BertConfig(**sizes)), config, languages=["en", "sw"])
        >>> text = torch.tensor([[1, 2, 3]])
        >>> with model.use_language("sw"):
        ...     states = model(input_ids=text).last_hidden_state
        >>> states.shape
        torch.Size([1, 3, 8])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     loaded = LanguageAdapterModel.from_pretrained(folder, languages=["sw"])
        >>> loaded.languages
        ('sw',)
    """

    def __init__(self, backend: Backend, *, shared: str = "all", share_adapter: bool = False) -> None:
        super().__init__(backend, SHARED_ADAPTER if share_adapter else None)
        self.shared = shared
        self.share_adapter = share_adapter
        ownership = Ownership.of_base(backend.base, chosen_names(backend.base, shared))
        self._ownership = ownership.held(backend.base).after(self)

    def add_language(self, language: Language, copy_from: Language | None = None) -> None:
        """Give the model a further language.

        Args:
            language: Its key.
            copy_from: A language whose parameters the new one starts from; default a fresh adapter.

        Raises:
            LanguageError: If the key is malformed or taken, or `copy_from` is unknown.
        """
        check_language(language)
        if twins := [key for key in self._languages if key.lower() == language.lower()]:
            raise LanguageError(
                "A new language must differ from those there are in more than upper and lower case. Found "
                f"{language!r} beside {twins[0]!r}. Write another key."
            )
        if copy_from is not None:
            check_known_language(copy_from, self._languages)
        if not self.share_adapter:
            self._create(language, language)
        elif not self._languages:
            self._create(SHARED_ADAPTER, None)
        self._ownership.languages.setdefault(language, [])
        self._ownership.created.setdefault(language, [])
        self._languages.append(language)
        if copy_from is not None:
            source, target = (self._named(self._ownership.created[key]) for key in (copy_from, language))
            for old, new in zip(source.values(), target.values(), strict=True):
                new.data = old.data.clone()
        self._ownership.require_gradients(self)
        if self._language is not None:
            self.set_language(self._language)

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

    def save_pretrained(
        self, save_directory: str | Path, *, max_shard_size: int | str | None = None, **details: Any
    ) -> None:
        """Write the shared weights as a transformers checkpoint and each language as an adapter of its own library.

        Args:
            save_directory: The folder; `<save_directory>/<language>/` holds the adapters.
            max_shard_size: The largest file of shared weights, such as "2GB"; default that of transformers.
            **details: Anything JSON that should be recorded in `language_adapters.json`, such as the training set-up.
        """
        options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        save_family(Path(save_directory), self._family(details), self.backend, self.base_state_dict(), **options)

    def load_weights(self, path: str | Path) -> None:
        """Read θ and every φ_l of this very model from what `save_pretrained` wrote, in place.

        Args:
            path: The folder.

        Raises:
            HubError: If the files are of another model, or damaged.
        """
        load_weights(Path(path), self._family({}), self.backend, self.base_state_dict())

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        auto_class: Any = None,
        languages: Sequence[Language] | None = None,
        shared: str | None = None,
        **model_arguments: Any,
    ) -> LanguageAdapterModel:
        """Load what `save_pretrained` wrote.

        Args:
            path: The folder.
            auto_class: The class that loads the shared weights, such as `AutoModelForTokenClassification` to put a
                new head on the same body; default the class that was saved.
            languages: The languages to load; default all.
            shared: What θ is from now on, see `get_language_model`; default as saved.
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
        adapters = family.adapters(wanted)
        base = load_base(folder, family, auto_class, model_arguments)
        body = None if type(base).__name__ == family.base_class else family.body or body_name(base)
        config = backend_named(family.backend).saved_config(folder / adapters[0], body) if adapters else None
        theta = family.shared if shared is None else shared
        model = get_language_model(base, config, wanted, shared=theta, share_adapter=family.share_adapter)
        for adapter in adapters:
            model.backend.load(adapter, folder / adapter, body)
        return model.eval()

    def _create(self, adapter: str, owner: Language | None) -> None:
        """Create an adapter that belongs to a language, or to θ if `owner` is `None`."""
        known, held = set(self.modules()), self._ownership.held(self)
        self.backend.add(adapter)
        self.model = self.backend.module
        self._ownership = held.after(self, owner)
        for part in set(self.modules()) - known:
            part.training = self.base_model.training

    def _family(self, details: dict[str, Any]) -> Family:
        return Family(
            languages=self.languages,
            backend=self.backend.name,
            shared=self.shared,
            share_adapter=self.share_adapter,
            base_class=type(self.base_model).__name__,
            body=body_name(self.base_model),
            details=details,
        )

    def _named(self, names: list[str]) -> dict[str, nn.Parameter]:
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in names}

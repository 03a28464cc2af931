"""A transformers model with parameters of its own for each language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.abilities import MergesLanguages
from hf_meta_adapters.backends.registry import backend_for, backend_named
from hf_meta_adapters.errors import (
    ConfigurationError,
    HubError,
    MetaAdapterError,
    check_known_language,
    check_languages,
)
from hf_meta_adapters.hub.base_model import body_name
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.download import fetch_family
from hf_meta_adapters.hub.loading import load_base
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER
from hf_meta_adapters.modeling._saved import SavedModel
from hf_meta_adapters.modeling._theta import shared_config


def get_language_model(
    base_model: nn.Module,
    config: Any,
    languages: Sequence[Language],
    *,
    shared: Any = "all",
    share_adapter: bool = False,
) -> LanguageAdapterModel:
    """Put parameters of their own for each language, φ_l, into a model; the rest of it is shared, θ.

    The model is changed in place, as by `peft.get_peft_model`. Fresh adapters are the identity
    where the method allows it (bottleneck, LoRA, (IA)³, LN tuning, module copies).

    Args:
        base_model: Any transformers model, with or without a head.
        config: What the parameters of a language are: a `peft.PeftConfig` (`BottleneckConfig`,
            `ModuleCopyConfig`, `LoraConfig`, …), an `adapters.AdapterConfig` (`SeqBnConfig`, …;
            extra `adapters`), or `None` for none, which is the joint baseline (or, with one
            language, the monolingual one).
        languages: The keys of the languages, such as `["en", "sw"]`.
        shared: What θ is: `"all"` (every parameter that `base_model` trains, the default), `"none"`
            (the base is frozen), a regular expression that is searched in the parameter names of
            `base_model`, or a `peft.PeftConfig`: θ is then an adapter itself, over a base that is
            frozen and may be quantised.
        share_adapter: One adapter for all languages instead of one each, a baseline of the paper.
            It is part of θ.

    Returns:
        The model.

    Raises:
        LanguageError: If a key is malformed or comes twice.
        ConfigurationError: If the configuration is of no known type, or `shared` matches no
            parameter.
        UnsupportedModelError: If the model has adapters already, or the adapter finds nothing in it
            to attach to.

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
    try:
        for key in keys:
            model.add_language(key)
        if shared not in ("all", "none") and not model.shared_parameters():
            raise ConfigurationError(
                "`shared` must leave parameters to θ. Found that each language has its own copy of"
                " all that "
                f'{shared!r} matches. Match others too, or write `shared="none"`.'
            )
    except MetaAdapterError:
        if model.shared_part is not None:
            model.shared_part.remove()
        raise
    return model


class LanguageAdapterModel(SavedModel):
    """A model whose forward pass runs in a language: f(x; θ, φ_l).

    Made by `get_language_model` or `LanguageAdapterModel.from_pretrained`. The wrapper owns
    `requires_grad`: θ and every φ_l are trainable from the start, and switching languages never
    changes that. Everything else that the base model and PEFT offer (`config`, `device`,
    `get_base_model()`, …) is reached through the wrapper.

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

    def merge_language(self, language: Language) -> nn.Module:
        """Compute a plain transformers model that is f(x; θ, φ_l): the adapter becomes part of the weights.

        Args:
            language: The key.

        Returns:
            A copy of the base model, without adapters; this model stays as it is.

        Raises:
            LanguageError: If the model does not have it.
            ConfigurationError: If the method cannot be merged, such as the bottleneck adapter.
        """
        key = check_known_language(language, self._languages)
        if not isinstance(self.backend, MergesLanguages):
            raise ConfigurationError(
                "The language adapters must be of a backend that can merge them. Found"
                f' "{self.backend.name}". Keep the adapter beside the model.'
            )
        return self.backend.merged(self._one_for_all or key).requires_grad_(True)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_path: str | Path,
        *,
        auto_class: Any = None,
        languages: Sequence[Language] | None = None,
        shared: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **model_arguments: Any,
    ) -> LanguageAdapterModel:
        """Load what `save_pretrained` or `push_to_hub` wrote; of a repository only the files that are needed.

        Args:
            repo_or_path: The folder, or a repository on the Hub such as `"me/family"`.
            auto_class: The class that loads the shared weights, such as
                `AutoModelForTokenClassification` to put a new head on the same body; default the
                class that was saved.
            languages: The languages to load; default all.
            shared: What θ is from now on, see `get_language_model`; default as saved. A
                `peft.PeftConfig` puts a fresh adapter beside those of the languages. Where θ was
                saved as an adapter, `"none"` keeps and freezes it.
            revision: A branch, a tag or a commit of the repository.
            token: The token for a private or gated repository; default that of `hf auth login`.
            cache_dir: Where downloads are kept; default the cache of the Hub.
            local_files_only: Whether to ask nothing but that cache.
            **model_arguments: Further arguments of the class's `from_pretrained`: `num_labels`,
                `dtype`, `device_map`…

        Returns:
            The model, in evaluation mode, as transformers models are after loading.

        Raises:
            HubError: If files are missing, foreign, damaged or unsafe, or cannot be downloaded.
            LanguageError: If a language is asked for that was not saved.
        """
        access = Access(
            revision, token, None if cache_dir is None else str(cache_dir), local_files_only
        )
        folder, family = fetch_family(repo_or_path, languages, access)
        wanted = family.languages if languages is None else check_languages(languages)
        adapters = family.adapters(wanted)
        base = load_base(folder, family, auto_class, model_arguments, access)
        body = None if type(base).__name__ == family.base_class else family.body or body_name(base)
        config = (
            backend_named(family.backend).saved_config(folder / adapters[0], body)
            if adapters
            else None
        )
        theta = shared_config(folder, family, shared, body)
        model = get_language_model(
            base, config, wanted, shared=theta, share_adapter=family.one_adapter_for_all
        )
        if family.theta_is_adapter and model.shared_part is not None:
            model.shared_part.load(folder / SHARED_ADAPTER, body)
            model._base_name = family.base_model, family.base_revision
        _load_all(model, folder, adapters, body)
        if model.shared_part is not None and shared == "none":
            model.train_only(*wanted)
        return model.eval()


def _load_all(
    model: LanguageAdapterModel, folder: Path, adapters: Sequence[str], body: str | None
) -> None:
    """Load adapters, or say of all of them at once what is wrong."""
    wrong: list[HubError] = []
    for adapter in adapters:
        try:
            model.backend.load(adapter, folder / adapter, body)
        except HubError as error:
            wrong.append(error)
    if len(wrong) > 1:
        raise HubError("\n".join(map(str, wrong))) from wrong[0]
    if wrong:
        raise wrong[0]

"""`get_language_model`: parameters of their own for each language, put into a model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.modeling._building import build_model
from hf_meta_adapters.modeling._size_hint import hint_at_size
from hf_meta_adapters.modeling.model import LanguageAdapterModel


def get_language_model(
    base_model: nn.Module,
    config: object,
    languages: Sequence[Language],
    *,
    shared: object = "all",
    share_adapter: bool = False,
) -> LanguageAdapterModel:
    """Put parameters for each language, φ_l, into a model; the rest of it is shared, θ.

    The model is changed in place, as by `peft.get_peft_model`. Fresh adapters are the identity
    where the method allows it (bottleneck, LoRA, (IA)³, LN tuning, module copies).

    Args:
        base_model: Any transformers model, with or without a head.
        config: What the parameters of a language are: a `peft.PeftConfig` (`BottleneckConfig`,
            `ModuleCopyConfig`, `LoraConfig`, …), an `adapters.AdapterConfig` (`SeqBnConfig`, …;
            extra `adapters`), a configuration that `register_backend` made known, or `None` for
            none, which is the joint baseline (or, with one language, the monolingual one).
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
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        ...              intermediate_size=8, vocab_size=99)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(**sizes))
        >>> config = BottleneckConfig(bottleneck_size=2)
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> model.languages
        ('en', 'sw')
    """
    model = build_model(
        LanguageAdapterModel,
        base_model,
        config,
        languages,
        shared=shared,
        share_adapter=share_adapter,
    )
    hint_at_size(model)
    return model

"""What the library `adapters` cannot do is refused before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from hf_meta_adapters import get_language_model
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError
from tests.tiny import tiny

from .methods import METHODS, adapted, adapters

LANGUAGES = ["en", "sw"]


def of(name: str, config: Any, **options: Any) -> Callable[[], Any]:
    return lambda: get_language_model(tiny(name).make(**options), config, LANGUAGES)


def with_an_adapter() -> Any:
    base = tiny("bert").make()
    adapters.init(base)
    base.add_adapter("ner")
    return get_language_model(base, adapters.SeqBnConfig(), LANGUAGES)


def with_flexible_heads() -> Any:
    return get_language_model(
        adapters.AutoAdapterModel.from_config(tiny("bert").config()),
        adapters.SeqBnConfig(),
        LANGUAGES,
    )


def nowhere() -> Any:
    return get_language_model(
        tiny("bert").make(), adapters.SeqBnConfig(leave_out=[0, 1]), LANGUAGES
    )


def with_a_shared_adapter() -> Any:
    from peft import LoraConfig

    shared = LoraConfig(target_modules=["query"])
    return get_language_model(tiny("bert").make(), adapters.SeqBnConfig(), LANGUAGES, shared=shared)


UNION = adapters.ConfigUnion(adapters.PromptTuningConfig(), adapters.LoRAConfig())
HALF = {"dtype": torch.bfloat16}
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a prompt": (
        of("bert", adapters.PromptTuningConfig()),
        ConfigurationError,
        "length of the text.*PrefixTuning",
    ),
    "a prompt in a union": (of("bert", UNION), ConfigurationError, "length of the text"),
    "DiReFT": (
        of("bert", adapters.DiReftConfig()),
        ConfigurationError,
        "reads back as another method.*NoReft",
    ),
    "an unknown architecture": (
        of("bloom", METHODS["lora"]),
        UnsupportedModelError,
        "Bloom.*BottleneckConfig",
    ),
    "a bias out of nowhere": (
        of("modernbert", METHODS["lora"]),
        UnsupportedModelError,
        r"Wqkv\.bias.* 2 in all",
    ),
    "X-MOD without its adapters": (
        of("xmod", METHODS["lora"]),
        UnsupportedModelError,
        "adapter_modules.*8 in all",
    ),
    "no prefix tuning": (
        of("qwen3", METHODS["prefix"]),
        UnsupportedModelError,
        "PrefixTuningConfig.*not supported",
    ),
    "a prefix unseen": (
        of("llama", METHODS["prefix"]),
        ConfigurationError,
        'Found "sdpa".*implementation="eager"',
    ),
    "a prefix unseen in a union": (
        of("gpt2", adapters.MAMConfig()),
        ConfigurationError,
        'Found "sdpa"',
    ),
    "DoRA of a merged matrix": (
        of("gpt2", METHODS["dora"]),
        ConfigurationError,
        "DoRAConfig.*GPT2LMHeadModel",
    ),
    "VeRA of a merged matrix": (
        of("gpt2", adapters.VeraConfig()),
        ConfigurationError,
        "must be plain",
    ),
    "VeRA of several sizes": (
        of("llama", adapters.VeraConfig()),
        ConfigurationError,
        r"\[\(16, 8\), \(16, 16\)\]",
    ),
    "half an orthogonal ReFT": (
        of("bert", METHODS["loreft"], **HALF),
        ConfigurationError,
        "Orthogonal.*bfloat16",
    ),
    "half a one-sided ReFT": (
        of("bert", adapters.NoReftConfig(), **HALF),
        ConfigurationError,
        "suffix_positions=0 in torch.bfloat16",
    ),
    "a model with adapters": (
        with_an_adapter,
        UnsupportedModelError,
        r"`adapters.init` was called, with the adapters \['ner'\]",
    ),
    "flexible heads": (with_flexible_heads, UnsupportedModelError, "BertAdapterModel"),
    "no transformers model": (
        lambda: get_language_model(torch.nn.Linear(2, 2), METHODS["lora"], LANGUAGES),
        UnsupportedModelError,
        "model class of transformers. Found `Linear`",
    ),
    "no place": (nowhere, UnsupportedModelError, "must find a place"),
    "a shared adapter of PEFT": (with_a_shared_adapter, ConfigurationError, '"adapters"'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    call, error, words = REFUSED[what]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("bert", adapters.VeraConfig(r=2), {}),
        ("bert", adapters.MTLLoRAConfig(r=2), {}),
        ("bert", adapters.NoReftConfig(suffix_positions=1), HALF),
        ("bert", adapters.AdapterConfig.load("seq_bn[reduction_factor=4]"), {}),
    ],
    ids=["vera", "mtl_lora", "half a two-sided ReFT", "a configuration by name"],
)
def test_what_is_next_to_it_works(name: str, config: Any, options: Any) -> None:
    model = of(name, config, **options)()
    model(**tiny(name).batch(), language="sw").loss.backward()
    assert all(parameter.grad is not None for parameter in model.language_parameters("sw").values())


def test_a_name_alone_says_what_to_write() -> None:
    with pytest.raises(
        ConfigurationError, match="AdapterConfig of the library adapters such as SeqBnConfig"
    ):
        get_language_model(tiny("bert").make(), "seq_bn", LANGUAGES)


def test_orthogonal_matrices_have_no_mean() -> None:
    model = adapted("bert", "loreft", LANGUAGES)
    with pytest.raises(ConfigurationError, match=r"not orthogonal.*NoReftConfig"):
        model.add_language("yo", copy_from={"en": 0.5, "sw": 0.5})
    assert model.languages == ("en", "sw")


@pytest.mark.parametrize(
    "method", ["train_adapter", "set_active_adapters", "load_adapter", "add_adapter"]
)
def test_methods_of_the_library_that_would_break_training_say_what_to_write(method: str) -> None:
    model = adapted("bert", languages=LANGUAGES)
    assert hasattr(model.base_model, method)
    with pytest.raises(AttributeError, match=f"has no `{method}`. Use "):
        getattr(model, method)


def test_the_class_of_the_base_stays_a_class_of_transformers() -> None:
    model = adapted("bert", languages=LANGUAGES)
    assert isinstance(model.base_model, transformers.BertForMaskedLM)

"""Scores with φ of the target, of the source, without any, and with the mean."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.study.adapter_variants import score_variants

CONFIG = BertConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=20,
)
IDS = torch.tensor([[3, 4, 5, 6]])


def model_of(config: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return get_language_model(BertModel(CONFIG), config, ["en", "sw", "te"], **options).eval()


@pytest.mark.parametrize("config", [BottleneckConfig(bottleneck_size=2)])
def test_each_variant_is_what_it_says(config: Any) -> None:
    model = model_of(config)
    plain = model_of(None)
    with torch.no_grad():
        for language in model.languages:
            for parameter in model.language_parameters(language).values():
                parameter.normal_()
    means = {
        name.replace(".sw.", ".te."): torch.stack(
            [model.get_parameter(name.replace(".sw.", f".{key}.")) for key in model.languages]
        ).mean(0)
        for name in model.language_parameters("sw")
    }

    def output(of: Any, language: str) -> torch.Tensor:
        with torch.no_grad():
            return of(language=language, input_ids=IDS)[0]

    seen: list[dict[str, str]] = []

    def score(adapters: Any) -> Any:
        seen.append(dict(adapters))
        outputs = {language: output(model, own) for language, own in adapters.items()}
        return SimpleNamespace(values=lambda: outputs)

    found: Any = score_variants(model, score, "en")
    assert list(found) == ["source", "no", "mean"]
    assert all(set(adapters) == {"en", "sw", "te"} for adapters in seen)
    assert torch.equal(found["source"]["sw"], output(model, "en"))
    assert torch.allclose(found["no"]["sw"], output(plain, "sw"), atol=1e-6)
    assert not torch.allclose(output(model, "sw"), output(plain, "sw"), atol=1e-3)

    # The mean of the parameters, by hand, in the place of those of a language.
    with torch.no_grad():
        for name, value in means.items():
            model.get_parameter(name).copy_(value)
    assert torch.allclose(found["mean"]["sw"], output(model, "te"), atol=1e-5)


def test_without_parameters_of_a_language_there_is_one_variant() -> None:
    def score(adapters: Any) -> Any:
        raise AssertionError

    assert score_variants(model_of(None), score, "en") == {}
    shared = model_of(BottleneckConfig(bottleneck_size=2), share_adapter=True)
    assert score_variants(shared, score, "en") == {}

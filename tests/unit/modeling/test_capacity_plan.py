"""A plan of capacity, followed from the gradients of a model to where its adapters end up."""

import re

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig

from hf_meta_adapters import BottleneckConfig, ModuleCopyConfig, get_language_model
from hf_meta_adapters.anatomy.layers import layer_index, layer_of
from hf_meta_adapters.diagnostics import (
    CapacityPlan,
    gradient_conflict,
    plan_language_capacity,
)
from hf_meta_adapters.diagnostics.capacity_plan import LayerNeed
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import ia3, layer_norm, lora
from tests.tiny import PRETRAINING, tiny

LANGUAGES = ("en", "sw")
FAMILIES = ("bert", "distilbert", "llama", "gpt2", "mt5", "mbart")


def plan_for(*layers):
    needs = tuple(LayerNeed(layer, conflict=1.0, specificity=None, rank=1.0) for layer in layers)
    return CapacityPlan(layers, (LANGUAGES,), needs, LANGUAGES, torch.eye(2), 0.5)


def layers_of(base):
    names = [layer_of(name) for name, _ in base.named_parameters()]
    return list(dict.fromkeys(name for name in names if layer_index(name) is not None))


def adapted_layers(model, language="sw"):
    return {
        layer_of(name.removeprefix("base_model.model."))
        for name in model.language_parameters(language)
    }


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_bottlenecks_are_in_the_layers_of_the_planned_numbers(cell):
    base = cell.make()
    last = layers_of(base)[-1]
    expected = {layer for layer in layers_of(base) if layer_index(layer) == layer_index(last)}
    assert len(expected) == (2 if cell.kind in ("encoder_decoder", "speech") else 1)
    model = get_language_model(
        base, plan_for(last).configure(BottleneckConfig(bottleneck_size=2)), LANGUAGES
    )
    assert adapted_layers(model) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [lora, ia3, layer_norm])
def test_an_adapter_of_peft_is_in_each_planned_layer_and_in_no_other(family, method):
    for layer in layers_of(tiny(family).make()):
        base = tiny(family).make()
        config = plan_for(layer).configure(method(base))
        assert adapted_layers(get_language_model(base, config, LANGUAGES)) == {layer}


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_modules_are_in_each_planned_layer_and_in_no_other(family):
    names = {
        "bert": ["LayerNorm"],
        "distilbert": ["sa_layer_norm"],
        "llama": [r".*layers\.\d+\.mlp"],
        "gpt2": ["ln_1", "attn"],
        "mt5": ["layer_norm"],
        "mbart": ["self_attn"],
    }
    for layer in layers_of(tiny(family).make()):
        config = plan_for(layer).configure(ModuleCopyConfig(names[family]))
        assert adapted_layers(get_language_model(tiny(family).make(), config, LANGUAGES)) == {layer}


def test_full_names_are_narrowed_to_those_of_the_planned_layers():
    names = [f"encoder.layer.{number}.output.LayerNorm" for number in (0, 1)]
    config = plan_for("encoder.layer.1").configure(ModuleCopyConfig([*names, "LayerNorm"]))
    assert len(config.modules) == 2
    model = get_language_model(tiny("bert").make(), config, LANGUAGES)
    assert adapted_layers(model) == {"encoder.layer.1"}

    # an end of a name is enough, of a model within another model as well
    config = plan_for("bert.encoder.layer.1").configure(
        ModuleCopyConfig(["layer.1.output", *names])
    )
    assert len(config.modules) == 2
    with pytest.raises(ConfigurationError, match=r"`modules` of these layers\. Found.*of other"):
        plan_for("encoder.layer.1").configure(ModuleCopyConfig(names[:1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_from_gradients_is_accepted(family):
    cell = tiny(family)
    base = cell.make()
    batches = {key: [cell.batch(seed), cell.batch(seed + 1)] for seed, key in enumerate(LANGUAGES)}
    conflict = gradient_conflict(base, batches, per_layer=True)
    plan = plan_language_capacity(conflict, None, budget=1)
    assert {need.layer for need in plan.layers} == set(layers_of(base))
    model = get_language_model(base, plan.configure(lora(base)), plan.languages)
    assert adapted_layers(model) == set(plan.target_layers)


def test_layer_1_is_not_layer_10():
    excluded = plan_for("layers.1").configure(LoraConfig(target_modules=["q_proj"])).exclude_modules
    names = [
        "model.layers.1.q_proj",
        "model.layers.10.q_proj",
        "layers.1.q_proj",
        "sublayers.1.q_proj",
    ]
    assert [name for name in names if re.fullmatch(excluded, name)] == [
        "model.layers.10.q_proj",
        "sublayers.1.q_proj",
    ]


@pytest.mark.parametrize("excluded", [["value"], r".*\.value"])
def test_what_the_user_excludes_stays_excluded(excluded):
    config = LoraConfig(r=2, target_modules=["query", "value"], exclude_modules=excluded)
    limited = plan_for("encoder.layer.1").configure(config)
    model = get_language_model(tiny("bert").make(), limited, LANGUAGES)
    assert adapted_layers(model) == {"encoder.layer.1"}
    assert not any("value" in name for name in model.language_parameters("en"))


def test_numbers_of_the_user_give_way_to_the_plan():
    config = LoraConfig(r=2, target_modules=["query"], layers_to_transform=[0])
    model = get_language_model(
        tiny("bert").make(), plan_for("encoder.layer.1").configure(config), LANGUAGES
    )
    assert adapted_layers(model) == {"encoder.layer.1"}
    assert config.layers_to_transform == [0]


@pytest.mark.parametrize(
    "config", [IA3Config(target_modules=["key"], feedforward_modules=[]), LNTuningConfig()]
)
def test_the_users_own_configuration_is_left_as_it_was(config):
    before = config.to_dict()
    assert type(plan_for("layers.1").configure(config)) is type(config)
    assert config.to_dict() == before


def test_a_kind_of_modules_cannot_be_limited():
    with pytest.raises(
        ConfigurationError, match=r"`ModuleCopyConfig` of the kind 'attention'.*\[\"LayerNorm\"\]"
    ):
        plan_for("layers.1").configure(ModuleCopyConfig("attention"))
    with pytest.raises(ConfigurationError, match=r"`exclude_modules`.*`LayerNeed`"):
        plan_for("layers.1").configure(LayerNeed("layers.1", 1.0, None, 1.0))

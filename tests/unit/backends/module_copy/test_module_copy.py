"""Copies of whole modules: where they go, what they share, and how PEFT keeps them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForTokenClassification, BertModel

from hf_meta_adapters import LanguageAdapterModel, ModuleCopyConfig, get_language_model
from hf_meta_adapters.anatomy.modules import MODULE_KINDS, find_modules, pattern_of_modules
from hf_meta_adapters.backends.module_copy._layer import ModuleCopyLayer
from hf_meta_adapters.backends.weights_file import WEIGHTS
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError
from tests.adapted import outputs, same, stirred
from tests.tiny import MODELS, PRETRAINING, TinyModel, tiny

PLACES = {
    ("bert", "attention"): ["bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention"],
    ("bert", "layer_norm"): [
        "bert.embeddings.LayerNorm",
        *(
            f"bert.encoder.layer.{n}.{part}output.LayerNorm"
            for n in (0, 1)
            for part in ("attention.", "")
        ),
    ],
    ("mbart", "feed_forward"): [
        f"model.{side}.layers.{n}.{part}"
        for side in ("encoder", "decoder")
        for n in (0, 1)
        for part in ("fc1", "fc2")
    ],
    ("mt5", "feed_forward"): [
        f"{side}.block.{n}.layer.{last}.DenseReluDense"
        for side, last in (("encoder", 1), ("decoder", 2))
        for n in (0, 1)
    ],
    ("llama", "feed_forward"): ["model.layers.0.mlp", "model.layers.1.mlp"],
    ("distilbert", "feed_forward"): [f"distilbert.transformer.layer.{n}.ffn" for n in (0, 1)],
}


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_the_places_of_a_kind(name: str, kind: str) -> None:
    assert find_modules(tiny(name).make(), kind) == PLACES[name, kind]


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_the_kinds_are_disjoint_but_for_norms_and_cover_every_linear_layer_of_the_layers(
    cell: TinyModel,
) -> None:
    base = cell.make()
    places = {kind: find_modules(base, kind) for kind in MODULE_KINDS}
    assert not set(places["attention"]) & set(places["feed_forward"])
    inside = tuple(f"{place}." for kind in ("attention", "feed_forward") for place in places[kind])
    layers = [
        name for name, part in base.named_modules() if type(part).__name__ in ("Linear", "Conv1D")
    ]
    numbered = [name for name in layers if any(part.isdigit() for part in name.split("."))]
    assert all(f"{name}.".startswith(inside) for name in numbered)
    norms = {type(base.get_submodule(place)) for place in places["layer_norm"]}
    assert all("Norm" in norm.__name__ for norm in norms)


@pytest.mark.parametrize("kind", MODULE_KINDS)
@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_a_pattern_finds_its_places_and_those_of_the_body_alone(cell: TinyModel, kind: str) -> None:
    base = cell.make()
    places = find_modules(base, kind)
    pattern = pattern_of_modules(base, places)
    assert find_modules(base, [pattern]) == [
        name for name, _ in base.named_modules() if name in places
    ]
    body = getattr(base, base.base_model_prefix, None)
    if isinstance(body, nn.Module):
        start = f"{base.base_model_prefix}."
        assert set(find_modules(body, [pattern])) == {place.removeprefix(start) for place in places}


def test_modules_are_named_by_ends_and_regular_expressions() -> None:
    base = tiny("bert").make()
    both = [f"bert.encoder.layer.{n}.intermediate" for n in (0, 1)]
    assert find_modules(base, ["intermediate"]) == find_modules(base, both) == both
    assert find_modules(base, [r".*layer\.1\.output"]) == ["bert.encoder.layer.1.output"]
    nested = find_modules(base, ["attention", r".*attention\.output\.LayerNorm", "cls"])
    assert nested == ["bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention", "cls"]


class Packed(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        (
            ["norms"],
            UnsupportedModelError,
            r"Found none for 'norms'. Use the names .*`BertForMaskedLM`, such as \['Layer",
        ),
        (["dropout"], UnsupportedModelError, "Found none for 'dropout'"),
        (
            ["encoder.layer"],
            UnsupportedModelError,
            "Found 'bert.encoder.layer' for 'encoder.layer', which is a list",
        ),
        (["cls.packed"], UnsupportedModelError, "'cls.packed', which is quantized"),
        (["["], ConfigurationError, r"Found '\[': unterminated character set .*Use for example"),
    ],
)
def test_modules_that_cannot_be_copied_are_refused(
    modules: list[str], error: Any, message: str
) -> None:
    base = tiny("bert").make()
    base.cls.packed = Packed()
    names = set(base.state_dict())
    with pytest.raises(error, match=message):
        get_language_model(base, ModuleCopyConfig(modules), ["en", "sw"])
    assert set(base.state_dict()) == names


def test_a_model_without_the_kind_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)

    for kind in MODULE_KINDS:
        with pytest.raises(
            UnsupportedModelError,
            match=rf'Found none for "{kind}". Use the names .*`Bare`, such as \[\'first',
        ):
            get_language_model(Bare(), ModuleCopyConfig(kind), ["en"])


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            "norm",
            (
                r"must be one of \['layer_norm', 'feed_forward', 'attention'\] or a list.*Found"
                r" 'norm'. Use \['norm'\]"
            ),
        ),
        ([], r"must hold names of modules, as strings. Found \[\]"),
        (5, r"must hold names of modules, as strings. Found 5"),
        ([3], r"as strings. Found \[3\]. Use"),
    ],
)
def test_a_wrong_configuration_is_refused(modules: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ModuleCopyConfig(modules)


def test_a_configuration_survives_a_file(tmp_path: Path) -> None:
    config = ModuleCopyConfig({"b", "a"}, modules_to_save=["classifier"])
    config.save_pretrained(str(tmp_path))
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content["modules"] == ["a", "b"]
    again = ModuleCopyConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, ModuleCopyConfig)
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("kind", MODULE_KINDS)
def test_the_originals_are_frozen_outside_of_theta_and_in_the_checkpoint(
    kind: str, tmp_path: Path
) -> None:
    cell = tiny("bert")
    bare = cell.make()
    model = get_language_model(cell.make(), ModuleCopyConfig(kind), ["en", "sw"])
    places = find_modules(bare, kind)
    originals = {
        name
        for name, _ in bare.named_parameters()
        if f"{name}.".startswith(tuple(f"{p}." for p in places))
    }
    names = {id(tensor): name for name, tensor in model.base_state_dict().items()}
    shared = {name.removeprefix("model.base_model.model.") for name in model.shared_parameters()}
    assert shared == {name for name, _ in bare.named_parameters()} - originals
    assert sum(map(len, (model.language_parameters("en"), originals))) == 2 * len(originals)
    assert len(names) > len(shared)
    stirred(model)
    model.save_pretrained(tmp_path)
    plain = type(bare).from_pretrained(tmp_path)
    assert all(
        torch.equal(plain.get_parameter(name), bare.get_parameter(name)) for name in originals
    )


def test_one_copy_for_all_languages_is_theta() -> None:
    cell = tiny("bert")
    model = get_language_model(
        cell.make(), ModuleCopyConfig("feed_forward"), ["en", "sw"], share_adapter=True
    )
    assert sum("mc_copies" in name for name in model.shared_parameters()) == 2 * 6
    assert len(model.shared_parameters()) == len(dict(cell.make().named_parameters()))
    assert model.language_parameters("en") == {}


def test_a_language_is_kept_under_the_names_of_the_modules(tmp_path: Path) -> None:
    """PEFT alone takes an adapter's name out of the last two parts of a tensor's name only."""
    cell = tiny("bert")
    model = stirred(
        get_language_model(cell.make(), ModuleCopyConfig("attention"), ["en", "weight", "query"])
    )
    model.save_pretrained(tmp_path)
    expected = {
        f"base_model.model.bert.encoder.layer.{n}.attention.mc_copies.{name}"
        for n in (0, 1)
        for name in cell.make().bert.encoder.layer[0].attention.state_dict()
    }
    for key in model.languages:
        assert set(load_file(tmp_path / key / WEIGHTS)) == expected
    loaded = LanguageAdapterModel.from_pretrained(
        tmp_path, auto_class=AutoModelForTokenClassification, num_labels=5
    )
    for key in model.languages:
        own, found = (
            model.language_parameters(key).values(),
            loaded.language_parameters(key).values(),
        )
        assert same(list(own), list(found))


def test_peft_alone_makes_saves_loads_switches_and_merges(tmp_path: Path) -> None:
    cell = tiny("llama")
    bare = outputs(cell.make(), cell.batch())
    model = get_peft_model(cell.make(), ModuleCopyConfig("feed_forward"), "sw").eval()
    model.add_adapter("en", ModuleCopyConfig("feed_forward"))
    model.set_adapter("sw")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("mc_copies.sw" in name for name in trained)
    assert same(outputs(model, cell.batch()), bare)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2)
    expected = outputs(model, cell.batch())
    assert not same(expected, bare)
    with model.disable_adapter():
        assert same(outputs(model, cell.batch()), bare)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(
        cell.make(), str(tmp_path / "sw"), adapter_name="other"
    ).eval()
    assert same(outputs(again, cell.batch()), expected)
    model.merge_adapter()
    assert same(outputs(model, cell.batch()), expected)
    with pytest.raises(
        ConfigurationError,
        match=r"Only one copy of a module can be merged at a time. Found \['sw', 'en'\]",
    ):
        model.merge_adapter(["en"])
    model.unmerge_adapter()
    model.set_adapter("en")
    assert same(outputs(model, cell.batch()), bare)
    model.base_model.set_adapter(["sw", "en"])
    with pytest.raises(
        ConfigurationError,
        match=r"Only one copy of a module can be active at a time. Found \['sw', 'en'\]",
    ):
        outputs(model, cell.batch())
    model.set_adapter("sw")
    merged = model.merge_and_unload()
    assert same(outputs(merged, cell.batch()), expected)
    assert set(merged.state_dict()) == set(cell.make().state_dict())


def test_a_copy_keeps_the_type_and_the_config_of_its_module() -> None:
    cell = tiny("llama")
    model = get_language_model(
        cell.make(torch.bfloat16), ModuleCopyConfig("attention"), ["en", "sw"]
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    copies = [part.mc_copies["sw"] for part in model.modules() if isinstance(part, ModuleCopyLayer)]
    assert [one.layer_idx for one in copies] == [0, 1]
    assert all(one.config is model.config for one in copies)


def test_attributes_are_those_of_the_active_copy() -> None:
    layer = ModuleCopyLayer(nn.LayerNorm(3))
    layer.add_copy("sw")
    with torch.no_grad():
        layer.mc_copies["sw"].weight.fill_(2.0)
    assert layer.weight.tolist() == [1.0] * 3
    layer.set_adapter("sw")
    assert layer.weight.tolist() == [2.0] * 3
    assert layer.bias is layer.mc_copies["sw"].bias
    assert layer.normalized_shape == (3,)
    assert copy.deepcopy(layer).weight.tolist() == [2.0] * 3
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = layer.no_such_thing


def test_text_is_generated_with_copies_of_the_attention() -> None:
    cell = tiny("llama")
    model = stirred(get_language_model(cell.make(), ModuleCopyConfig("attention"), ["en", "sw"]))
    inputs = {key: cell.batch(rows=1)[key] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    found = model.generate(**inputs, **options, language="sw")
    text = inputs["input_ids"]
    for _ in range(8):
        text = torch.cat(
            [text, model(input_ids=text, use_cache=False, language="sw").logits[:, -1:].argmax(-1)],
            1,
        )
    assert torch.equal(found, text)


def test_attentions_are_given_out() -> None:
    cell = tiny("bert")
    base = BertModel._from_config(cell.config(), attn_implementation="eager").eval()
    model = get_language_model(base, ModuleCopyConfig("attention"), ["en", "sw"])
    batch = {key: value for key, value in cell.batch().items() if key != "labels"}
    assert len(model(**batch, output_attentions=True, language="sw").attentions) == 2


def test_copies_of_all_that_would_be_shared_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"own copy of all that .*LayerNorm"):
        get_language_model(
            tiny("bert").make(), ModuleCopyConfig("layer_norm"), ["en"], shared=r"output\.LayerNorm"
        )

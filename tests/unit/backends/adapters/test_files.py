"""Adapters of the library `adapters` as folders: ours in the library, and the library's here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import ConfigurationError, HubError
from tests.adapted import outputs, same
from tests.tiny import TinyModel, tiny

from .methods import METHODS, adapted, adapters, bare, stirred

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


def changed(base: Any, name: str, config: Any) -> Any:
    """A plain model with an adapter that does something."""
    adapters.init(base)
    base.add_adapter(name, config=config, set_active=True)
    with torch.no_grad():
        for path, parameter in base.named_parameters():
            if name in path.split("."):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return base.eval()


def published(cell: TinyModel, folder: Path, config: Any, **options: Any) -> list[torch.Tensor]:
    """Save an adapter as its author would, under her name for it; what the model says with it."""
    base = changed(bare(cell), "wiki", config)
    base.save_adapter(
        str(folder), "wiki", **{"use_safetensors": True, "with_head": False, **options}
    )
    return outputs(base, cell.batch())


@pytest.mark.parametrize("method", ["double_seq_bn_inv", "compacter", "lora", "noreft", "union"])
@pytest.mark.parametrize("name", ["bert", "llama", "mbart"])
def test_a_published_adapter_is_a_place_to_start_from(
    name: str, method: str, tmp_path: Path
) -> None:
    expected = published(tiny(name), tmp_path, METHODS[method])
    model = adapted(name, method, ["en", "to"])
    english = outputs(model, tiny(name).batch(), language="en")
    model.load_language("to", tmp_path)
    model.load_language("sw", tmp_path)
    assert model.languages == ("en", "to", "sw")
    assert all(
        same(outputs(model, tiny(name).batch(), language=key), expected) for key in ("to", "sw")
    )
    assert same(outputs(model, tiny(name).batch(), language="en"), english)


def test_its_configuration_is_read_by_the_library(tmp_path: Path) -> None:
    expected = published(tiny("bert"), tmp_path, METHODS["union"])
    config = adapters.AdapterConfig.load(str(tmp_path / CONFIG))
    model = get_language_model(bare("bert"), config, ["en"])
    model.load_language("en", tmp_path)
    assert same(outputs(model, tiny("bert").batch()), expected)


def test_it_starts_from_an_adapter_of_a_body_or_of_another_head(tmp_path: Path) -> None:
    body = changed(
        transformers.BertModel(tiny("bert").config()), "wiki", METHODS["double_seq_bn_inv"]
    )
    body.save_adapter(str(tmp_path), "wiki", use_safetensors=True)
    model = adapted("bert", "double_seq_bn_inv", ["en"])
    model.load_language("en", tmp_path)
    own = {
        name.removeprefix("model.bert."): tensor
        for name, tensor in model.language_parameters("en").items()
    }
    theirs = {
        name.replace(".wiki.", ".en."): t for name, t in body.named_parameters() if ".wiki." in name
    }
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_another_class_reads_the_same_language(tmp_path: Path) -> None:
    model = stirred(adapted("bert", "prefix"))
    model.save_pretrained(tmp_path)
    other = LanguageAdapterModel.from_pretrained(
        tmp_path, auto_class=transformers.AutoModel, languages=["to"]
    )
    pairs = zip(
        other.language_parameters("to").values(),
        model.language_parameters("to").values(),
        strict=True,
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    expected = published(tiny("bert"), tmp_path, METHODS["lora"], use_safetensors=False)
    model = adapted("bert", "lora", ["en"])
    with pytest.raises(
        HubError,
        match=r"a pickle, which can run code.*weights_only=True\), \"adapter\.safetensors\"",
    ):
        model.load_language("en", tmp_path)
    state = torch.load(tmp_path / "pytorch_adapter.bin", weights_only=True)
    save_file(state, tmp_path / WEIGHTS)
    model.load_language("en", tmp_path)
    assert same(outputs(model, tiny("bert").batch()), expected)


def test_a_prefix_that_the_library_has_saved_once_for_each_layer_is_read(tmp_path: Path) -> None:
    expected = published(tiny("bert"), tmp_path, METHODS["prefix"], use_safetensors=False)
    state = torch.load(tmp_path / "pytorch_adapter.bin", weights_only=True)
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / WEIGHTS)
    model = adapted("bert", "prefix", ["en"])
    assert len(state) > len(model.language_parameters("en"))
    model.load_language("en", tmp_path)
    assert same(outputs(model, tiny("bert").batch()), expected)


def test_the_files_name_no_folder_of_this_machine_and_no_tensor_twice(tmp_path: Path) -> None:
    base = tiny("bert").make()
    base.save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    model = get_language_model(base, METHODS["prefix"], ["en"])
    model.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved" / "en").iterdir()) == [WEIGHTS, CONFIG]
    config = json.loads((tmp_path / "saved" / "en" / CONFIG).read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(config)
    assert config["name"] == "en"
    saved = load_file(tmp_path / "saved" / "en" / WEIGHTS)
    assert sum(tensor.numel() for tensor in saved.values()) == sum(
        tensor.numel() for tensor in model.language_parameters("en").values()
    )


def cut(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    name, tensor = state.popitem()
    save_file({**state, name: tensor[:1].clone()}, folder / WEIGHTS)


def configured(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        content["config"].update(changes)
        (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")

    return change


def written(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "no such file"),
        (lambda folder: (folder / CONFIG).unlink(), "Found none in"),
        (written(WEIGHTS, "no tensors"), "damaged"),
        (written(CONFIG, "{"), "no JSON"),
        (written(CONFIG, "{}"), "without `name` and `config`"),
        (
            written(CONFIG, '{"name": "en", "config": {"architecture": "magic"}}'),
            "that `adapters` knows.*magic",
        ),
        (configured(non_linearity="relu"), "non_linearity='relu', not 'swish'.*AdapterConfig.load"),
        (configured(reduction_factor=2), "reduction_factor=2, not 4"),
        (cut, r"must fit the model.*shape \(1"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_language_as_it_was(
    damage: Any, words: str, tmp_path: Path
) -> None:
    published(tiny("bert"), tmp_path, METHODS["double_seq_bn"])
    damage(tmp_path)
    model, batch = adapted("bert", languages=["en"]), tiny("bert").batch()
    before = outputs(model, batch)
    with pytest.raises(HubError, match=words):
        model.load_language("en", tmp_path)
    assert same(outputs(model, batch), before)


def test_what_matters_in_training_alone_may_differ(tmp_path: Path) -> None:
    published(tiny("bert"), tmp_path, METHODS["double_seq_bn"].replace(dropout=0.4))
    adapted("bert", languages=["en"]).load_language("en", tmp_path)


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    published(tiny("llama"), tmp_path, METHODS["double_seq_bn"])
    with pytest.raises(HubError, match=r"not part of the adapter: model\.layers\.0"):
        adapted("bert", languages=["en"]).load_language("en", tmp_path)


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"config": None}])
def test_a_model_without_adapters_of_languages_loads_none(options: Any, tmp_path: Path) -> None:
    options = {"config": METHODS["lora"], **options}
    model = get_language_model(bare("bert"), options.pop("config"), ["en"], **options)
    with pytest.raises(ConfigurationError, match="only if each has its own"):
        model.load_language("en", tmp_path)


def test_a_language_of_a_peft_family_is_loaded_too(tmp_path: Path) -> None:
    batch, config = tiny("bert").batch(), BottleneckConfig(bottleneck_size=3)
    model = stirred(get_language_model(bare("bert"), config, ["en", "sw"]))
    model.save_pretrained(tmp_path)
    other = get_language_model(bare("bert"), config, ["en"])
    other.load_language("sw", tmp_path / "sw")
    pairs = zip(
        other.language_parameters("sw").values(),
        model.language_parameters("sw").values(),
        strict=True,
    )
    assert all(torch.equal(*pair) for pair in pairs)
    assert not same(outputs(other, batch, language="sw"), outputs(other, batch, language="en"))


@pytest.mark.parametrize("name", ["bert", "mt5"])
def test_a_checkpoint_is_read_into_the_very_model(name: str, tmp_path: Path) -> None:
    model, batch = stirred(adapted(name, "union")), tiny(name).batch()
    model.save_pretrained(tmp_path)
    expected = outputs(model, batch, language="to")
    stirred(model)
    assert not same(outputs(model, batch, language="to"), expected)
    model.load_weights(tmp_path)
    assert same(outputs(model, batch, language="to"), expected)


def test_the_saved_weights_of_a_tied_model_are_those_of_the_plain_model(tmp_path: Path) -> None:
    model = stirred(adapted("bert"))
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    state = model.base_state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())

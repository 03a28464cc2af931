"""What `save_pretrained` writes is read back bitwise, with this package and without it, and bad
files are refused.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForTokenClassification

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import ConfigurationError, HubError, LanguageError, check_language
from hf_meta_adapters.hub.manifest import MANIFEST, SHARED_ADAPTER
from tests.adapted import (
    METHODS,
    adapted,
    lora,
    moved,
    outputs,
    same,
    snapshot,
    stirred,
    trained_as_owned,
)
from tests.signed import sign
from tests.tiny import HEADS, PRETRAINING, TinyModel, tiny

load = LanguageAdapterModel.from_pretrained


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, **changes: object) -> None:
    """Change entries of the manifest; `None` deletes one."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) | changes
    content = {name: value for name, value in content.items() if value is not None}
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(("name", "method"), [("mt5", method) for method in METHODS])
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # by PEFT, of every norm
def test_every_method_is_read_back_bitwise_with_and_without_the_package(
    name: str, method: str, tmp_path: Path
) -> None:
    cell, languages = tiny(name), ("te", "zh-Hant")
    model = stirred(adapted(cell, method, languages))
    batch = cell.batch()
    expected = {key: outputs(model, batch, language=key) for key in languages}
    inner = tmp_path / "deep" / "model"
    model.save_pretrained(inner)
    assert files(tmp_path) == {f"deep/model/{one}" for one in files(inner)}
    adapters = {
        f"{key}/{file}"
        for key in languages
        for file in ("adapter_config.json", "adapter_model.safetensors")
    }
    shared = {"config.json", "model.safetensors", MANIFEST, "README.md"}
    assert files(inner) - {"generation_config.json"} == shared | adapters

    loaded = load(inner)
    assert loaded.languages == languages
    assert not loaded.training
    assert {
        key: same(outputs(loaded, batch, language=key), expected[key]) for key in languages
    } == dict.fromkeys(languages, True)
    assert set(loaded.shared_parameters()) == set(model.shared_parameters())
    plain = getattr(transformers, HEADS[cell.head]).from_pretrained(inner)
    assert set(plain.state_dict()) == set(cell.make().state_dict())
    for key in languages:
        again = getattr(transformers, HEADS[cell.head]).from_pretrained(inner)
        assert same(
            outputs(PeftModel.from_pretrained(again, str(inner), subfolder=key).eval(), batch),
            expected[key],
        )


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_every_family_is_read_back(cell: TinyModel, tmp_path: Path) -> None:
    model = stirred(adapted(cell, "lora", ["sw"]))
    model.save_pretrained(tmp_path)
    expected = outputs(model, cell.batch(), language="sw")
    assert same(outputs(load(tmp_path), cell.batch(), language="sw"), expected)
    plain = getattr(transformers, HEADS[cell.head]).from_pretrained(tmp_path)
    base = {
        name: tensor
        for name, tensor in model.base_state_dict().items()
        if name in plain.state_dict()
    }
    assert base
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in base.items())
    stirred(other := load(tmp_path))
    other.load_weights(tmp_path)
    assert same(outputs(other, cell.batch(), language="sw"), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_numbers_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "bottleneck", dtype=dtype))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.dtype == dtype
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )
    assert load(tmp_path, dtype=torch.float32).dtype == torch.float32
    stirred(loaded).load_weights(tmp_path)
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )


def test_saving_over_the_folder_that_a_model_was_loaded_from(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora"))
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    again.save_pretrained(tmp_path)
    for one in (again, load(tmp_path)):
        assert same(
            outputs(one, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
        )


@pytest.mark.parametrize("name", ["xlm-r", "gpt2", "mbart"])
def test_tied_weights_and_shards_are_read_back(name: str, tmp_path: Path) -> None:
    cell = tiny(name)
    model = stirred(adapted(cell, "bottleneck"))
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load(tmp_path)
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    stirred(loaded).load_weights(tmp_path)
    assert same(
        outputs(loaded, cell.batch(), language="en"), outputs(model, cell.batch(), language="en")
    )
    model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("model*.safetensors")) == [tmp_path / "model.safetensors"]


def test_lora_on_tied_embeddings_is_read_back(tmp_path: Path) -> None:
    cell = tiny("xlm-r")
    model = stirred(
        get_language_model(
            cell.make(), LoraConfig(target_modules=["word_embeddings"]), ["en", "sw"]
        )
    )
    model.save_pretrained(tmp_path)
    expected = outputs(model, cell.batch(), language="sw")
    assert same(outputs(load(tmp_path), cell.batch(), language="sw"), expected)
    plain = transformers.XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert same(
        outputs(PeftModel.from_pretrained(plain, str(tmp_path), subfolder="sw"), cell.batch()),
        expected,
    )


def test_heads_of_languages_are_read_back(tmp_path: Path) -> None:
    cell = tiny("bert", "token_classification")
    config = LoraConfig(
        target_modules=["query"], modules_to_save=["classifier"], task_type="TOKEN_CLS"
    )
    model = stirred(get_language_model(cell.make(), config, ["en", "sw"]))
    model.save_pretrained(tmp_path)
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path)
    loaded = load(tmp_path)
    for key in model.languages:
        expected = outputs(model, cell.batch(), language=key)
        assert same(outputs(loaded, cell.batch(), language=key), expected)
        again = PeftModel.from_pretrained(
            AutoModelForTokenClassification.from_pretrained(tmp_path), str(tmp_path), subfolder=key
        )
        assert same(outputs(again, cell.batch()), expected)
    assert torch.equal(plain.classifier.weight, model.base_state_dict()["classifier.weight"])


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
def test_one_adapter_for_all_is_saved_once(method: str, tmp_path: Path) -> None:
    cell = tiny("mt5")
    model = stirred(adapted(cell, method, share_adapter=True))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {SHARED_ADAPTER}
    loaded = load(tmp_path, languages=["sw"])
    assert loaded.share_adapter
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="en")
    )
    plain = transformers.MT5ForConditionalGeneration.from_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(plain, str(tmp_path), subfolder=SHARED_ADAPTER)
    assert same(outputs(plain, cell.batch()), outputs(model, cell.batch()))
    with pytest.raises(LanguageError):
        check_language(SHARED_ADAPTER)


def test_without_adapters_a_plain_checkpoint_and_the_manifest_are_saved(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, None))
    model.save_pretrained(tmp_path)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    loaded = load(tmp_path)
    assert loaded.languages == ("en", "sw")
    assert same(outputs(loaded, cell.batch()), outputs(model, cell.batch()))
    stirred(loaded).load_weights(tmp_path)
    assert same(outputs(loaded, cell.batch()), outputs(model, cell.batch()))


@pytest.mark.parametrize("shared", ["all", "none", "LayerNorm"])
def test_what_is_shared_is_recorded_and_can_be_changed(shared: str, tmp_path: Path) -> None:
    model = adapted("bert", "lora", shared=shared)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert set(loaded.shared_parameters()) == set(model.shared_parameters())
    changed = load(tmp_path, shared="pooler|embeddings", auto_class=AutoModel)
    assert set(changed.shared_parameters()) == {
        f"model.base_model.model.{name}"
        for name, _ in tiny("bert").make().bert.named_parameters()
        if "embeddings" in name
    } | {"model.base_model.model.pooler.dense.weight", "model.base_model.model.pooler.dense.bias"}


@pytest.mark.parametrize("name", ["bert", "xlm-r", "llama", "gpt2", "mt5"])
@pytest.mark.parametrize("method", METHODS)
def test_another_head_keeps_the_body_and_the_adapters(
    name: str, method: str, tmp_path: Path
) -> None:
    """One body under three classes: a language model, token classification, and no head at all."""
    cell = tiny(name)
    model = stirred(adapted(cell, method))
    model.save_pretrained(tmp_path)
    classes = [AutoModel] + (
        [AutoModelForTokenClassification] if name in ("bert", "xlm-r", "llama", "gpt2") else []
    )
    batch = {key: value for key, value in cell.batch().items() if key != "labels"}
    if name == "mt5":
        batch["decoder_input_ids"] = batch["input_ids"]
    for auto_class in classes:
        arguments = {} if auto_class is AutoModel else {"num_labels": 5}
        loaded = load(tmp_path, auto_class=auto_class, **arguments)
        for key in model.languages:
            expected = model(**batch, output_hidden_states=True, language=key)
            found = loaded(**batch, output_hidden_states=True, language=key)
            for states in ("decoder_hidden_states",) if name == "mt5" else ("hidden_states",):
                assert same(list(found[states]), list(expected[states]))
        if arguments:
            assert loaded(**batch, language="sw").logits.shape[-1] == 5
            assert any(
                name.endswith(("classifier.weight", "score.weight"))
                for name in loaded.shared_parameters()
            )
            folder = tmp_path / "tagger"
            loaded.save_pretrained(folder)
            assert same(
                outputs(load(folder), batch, language="sw"), outputs(loaded, batch, language="sw")
            )


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_the_body_of_every_family_keeps_the_adapters_without_a_head(
    cell: TinyModel, tmp_path: Path
) -> None:
    model = stirred(adapted(cell, "bottleneck", ["sw"]))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, auto_class=AutoModel)
    own = list(model.language_parameters("sw").values())
    found = list(loaded.language_parameters("sw").values())
    assert same(found, own)


def test_adapters_in_a_head_stay_with_that_head(tmp_path: Path) -> None:
    """`dense` is a layer of the body, of the head of the language model, and of that of the
    classifier.
    """
    cell = tiny("xlm-r")
    model = stirred(
        get_language_model(cell.make(), LoraConfig(r=2, target_modules=["dense"]), ["en", "sw"])
    )
    model.save_pretrained(tmp_path)
    kind = transformers.AutoModelForSequenceClassification
    loaded = load(tmp_path, auto_class=kind, num_labels=3)
    own = {
        name.split("roberta.")[-1]: value for name, value in model.language_parameters("sw").items()
    }
    found = {
        name.split("roberta.")[-1]: value
        for name, value in loaded.language_parameters("sw").items()
    }
    assert {name.split(".")[3] for name in set(own) - set(found)} == {"lm_head"}
    assert {".".join(name.split(".")[3:5]) for name in set(found) - set(own)} == {
        "classifier.dense"
    }
    assert all(torch.equal(found[name], own[name]) for name in set(own) & set(found))
    assert not any(
        value.any() for name, value in found.items() if "classifier" in name and "lora_B" in name
    )


def test_a_head_can_be_put_on_a_body_without_one(tmp_path: Path) -> None:
    cell = tiny("xlm-r")
    base = cell.make().roberta
    model = stirred(get_language_model(base, lora(base), ["en", "sw"]))
    model.save_pretrained(tmp_path)
    batch = {key: value for key, value in cell.batch().items() if key != "labels"}
    loaded = load(tmp_path, auto_class=AutoModelForTokenClassification, num_labels=4)
    with torch.no_grad(), loaded.use_language("en"):
        found = loaded.base_model.roberta(**batch)[0]
    assert torch.equal(found, outputs(model, batch, language="en")[0])


def test_some_of_the_languages_can_be_loaded_in_any_order(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora", ["en", "sw", "te"]))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, languages=["te", "en"])
    assert loaded.languages == ("te", "en")
    assert same(
        outputs(loaded, cell.batch(), language="te"), outputs(model, cell.batch(), language="te")
    )
    stirred(loaded).load_weights(tmp_path)
    assert same(
        outputs(loaded, cell.batch(), language="en"), outputs(model, cell.batch(), language="en")
    )
    with pytest.raises(
        LanguageError, match=r"one of those saved in .*\['en', 'sw', 'te'\]. Found 'fr'"
    ):
        load(tmp_path, languages=["en", "fr"])


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_read_in_place(method: str, tmp_path: Path) -> None:
    cell = tiny("mbart")
    model = stirred(adapted(cell, method))
    model.save_pretrained(tmp_path)
    before, identities = snapshot(model), [id(parameter) for parameter in model.parameters()]
    stirred(model).train()
    assert moved(before, model)
    model.load_weights(tmp_path)
    assert moved(before, model) == set()
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert trained_as_owned(model)
    assert model.training


def test_details_are_recorded_and_must_be_json(tmp_path: Path) -> None:
    model = adapted("bert", "lora")
    model.save_pretrained(tmp_path, training={"preset": "paper", "note": "naïve"})
    content = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert content["details"] == {"training": {"preset": "paper", "note": "naïve"}}
    assert content["languages"] == ["en", "sw"]
    with pytest.raises(ConfigurationError, match=r"must be JSON. Found .*set.*Use numbers"):
        model.save_pretrained(tmp_path / "other", notes={"en"})
    assert not (tmp_path / "other").exists()


def test_no_file_names_the_machine(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path / "one")
    load(tmp_path / "one").save_pretrained(tmp_path / "two")
    load(tmp_path / "two")
    for path in (tmp_path / "two").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model in a folder of its own."""
    stirred(adapted("bert", "lora")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["en", "../evil"]}, r"unsafe languages. .*Found '../evil'"),
        ({"languages": ["en", "/etc"]}, r"unsafe languages. .*Found '/etc'"),
        ({"languages": ["en", "EN"]}, "unsafe languages"),
        ({"languages": []}, "unsafe languages"),
        ({"languages": "en"}, "`languages` is 'en'"),
        ({"backend": None, "shared": 3}, r"`backend` is None, `shared` is 3. Download"),
        ({"format": 99}, "format 99, where this version reads 1. Install"),
        ({"format": None}, "format None"),
        (
            {"base_class": "AutoTokenizer"},
            r"must be a model class of transformers. Found 'AutoTokenizer'. Pass the class.*`from",
        ),
        ({"base_class": "os"}, "must be a model class"),
        ({"base_class": "MyModel"}, "Found 'MyModel'"),
    ],
)
def test_a_foreign_or_unsafe_manifest_is_refused(
    saved: Path, changes: dict[str, object], message: str
) -> None:
    edit(saved, **changes)
    with pytest.raises(HubError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("text", "found"), [("{", "no JSON"), ("[1]", "a list"), ("\x00", "no JSON")]
)
def test_a_damaged_manifest_is_refused(saved: Path, text: str, found: str) -> None:
    (saved / MANIFEST).write_text(text)
    with pytest.raises(
        HubError, match=f"must be what `save_pretrained` wrote. Found in .*{found}.*again"
    ):
        load(saved)


def test_an_unknown_backend_is_refused(saved: Path) -> None:
    edit(saved, backend="telepathy")
    with pytest.raises(ConfigurationError, match=r"\['none', 'peft'.*Found 'telepathy'. Install"):
        load(saved)


def test_missing_files_are_named(saved: Path) -> None:
    with pytest.raises(
        HubError, match=rf"must have a file `{MANIFEST}`. Found none in .*nowhere. Pass the folder"
    ):
        load(saved.parent / "nowhere")
    shutil.rmtree(saved / "sw")
    with pytest.raises(
        HubError, match=r"Found no such folder: .*sw. Download .* leave the language out"
    ):
        load(saved)
    assert load(saved, languages=["en"]).languages == ("en",)
    (saved / "en" / "adapter_config.json").unlink()
    with pytest.raises(
        HubError,
        match=r"must have a file `adapter_config.json` of PEFT. Found none in .*en. Download",
    ):
        load(saved)
    size = (saved / "model.safetensors").stat().st_size
    (saved / "model.safetensors").unlink()
    edit(saved, backend="none", files={"model.safetensors": size})
    with pytest.raises(
        HubError, match=r"must be a transformers checkpoint in safetensors format. Found in .*model"
    ):
        load(saved)


@pytest.mark.parametrize("damage", ["cut", "without"])
def test_damaged_shared_weights_are_refused(saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    model, content, state = load(saved), path.read_bytes(), load_file(path)
    path.unlink()  # a file that is in use as memory must not be cut
    if damage == "cut":
        path.write_bytes(content[:200])
    else:
        del state["bert.encoder.layer.1.output.dense.bias"]
        save_file(state, path, metadata={"format": "pt"})
    sign(saved)
    before = snapshot(model)
    message = {
        "cut": "Error while deserializing",
        "without": r"without \['bert.encoder.layer.1.output.dense.bias'\]",
    }
    for call in (lambda: load(saved), lambda: model.load_weights(saved)):
        with pytest.raises(
            HubError, match=rf"must be a transformers checkpoint.*{message[damage]}.*again"
        ):
            call()
    assert moved(before, model) == set()


def test_pickled_shared_weights_are_never_read(saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    for arguments in ({}, {"use_safetensors": False}):
        with pytest.raises(HubError, match="in safetensors format"):
            load(saved, **arguments)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: adapted("xlm-r", "lora"),
            "base_class='BertForMaskedLM' where the model has 'XLMRobertaForMaskedLM'",
        ),
        (
            lambda: adapted(tiny("bert", "token_classification"), "lora"),
            "base_class='BertForMaskedLM'",
        ),
        (lambda: adapted("bert", None), "backend='peft' where the model has 'none'"),
        (
            lambda: adapted("bert", "lora", share_adapter=True),
            "share_adapter=False where the model has True",
        ),
        (lambda: adapted("bert", "lora", ["en", "sw", "te"]), "no language 'te'"),
    ],
)
def test_weights_of_another_model_are_refused_in_place(saved: Path, other, message: str) -> None:
    model = other()
    before = snapshot(model)
    with pytest.raises(
        HubError, match=rf"must be of this very model. Found in .*: .*{message}.*Use `Lang"
    ):
        model.load_weights(saved)
    assert moved(before, model) == set()


def test_weights_of_other_shapes_are_refused_in_place(saved: Path) -> None:
    model = adapted("bert", "lora")
    model.resize_token_embeddings(70)
    names = re.escape("bert.embeddings.word_embeddings.weight of shape (64, 16), not (70, 16)")
    with pytest.raises(HubError, match=rf"{names}.*cls.predictions.bias of shape \(64,\)"):
        model.load_weights(saved)


def test_saving_again_replaces_and_a_broken_save_changes_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora", ["te"]))
    model.save_pretrained(saved)
    assert load(saved).languages == ("te",)
    assert same(outputs(load(saved), cell.batch()), outputs(model, cell.batch()))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = {name: (saved / name).read_bytes() for name in files(saved)}
    monkeypatch.setattr(model.backend, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stirred(model).save_pretrained(saved)
    assert {name: (saved / name).read_bytes() for name in files(saved)} == before


def test_a_bottleneck_of_another_size_is_refused(tmp_path: Path) -> None:
    cell = tiny("bert")
    for size in (3, 5):
        model = get_language_model(
            cell.make(), BottleneckConfig(bottleneck_size=size), ["en", "sw"]
        )
        model.save_pretrained(tmp_path / str(size))
    shutil.rmtree(tmp_path / "3" / "sw")
    shutil.copytree(tmp_path / "5" / "sw", tmp_path / "3" / "sw")
    sign(tmp_path / "3")
    with pytest.raises(
        HubError,
        match=r"bk_down.weight: shape \(5, 16\) in the file, \(3, 16\) in the model; .*; .*;",
    ):
        load(tmp_path / "3")

"""Every file that a model is loaded from is compared with the checksum that saving recorded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForMaskedLM

from hf_meta_adapters import LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub import checksums
from hf_meta_adapters.hub.manifest import MANIFEST, SHARED_ADAPTER, read_manifest
from tests.adapted import METHODS, adapted, moved, outputs, same, snapshot, stirred
from tests.hub_server import HubServer
from tests.signed import sign_tree
from tests.tiny import PRETRAINING, TinyModel, tiny
from tests.training import make_model, make_trainer

load = LanguageAdapterModel.from_pretrained
FAMILY = "anna/family"
RULE = rf"must be those that `{MANIFEST}` records\. Found in "


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def damage(path: Path) -> None:
    """Change one bit of weights, or add a space to a text, which still is JSON."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".json" or content.lstrip().startswith(b"{"):
        content += b" "
    else:
        content[-1] ^= 1

    # A new file, since the old one may be mapped into memory.
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    stirred(adapted("bert", "lora")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_every_file_that_is_read_has_its_checksum(cell: TinyModel, tmp_path: Path) -> None:
    adapted(cell, "lora", ["sw"]).save_pretrained(tmp_path, max_shard_size="10KB")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    found = manifest(tmp_path)
    assert found["sha256"].keys() == names - {"README.md", MANIFEST}
    assert found["files"].keys() == {name for name in names if name.endswith(".safetensors")}
    for name, checksum in found["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("method", METHODS)
def test_a_changed_byte_of_any_file_is_refused(method: str, tmp_path: Path) -> None:
    model = stirred(adapted("mt5", method))
    model.save_pretrained(tmp_path / "model", max_shard_size="10KB")
    before = snapshot(model)
    for name in manifest(tmp_path / "model")["sha256"]:
        folder = shutil.copytree(tmp_path / "model", tmp_path / name.replace("/", "-"))
        damage(folder / name)
        for call in (load, model.load_weights):
            with pytest.raises(HubError, match=rf"{RULE}.*: {name} has other content than was"):
                call(folder)
    assert moved(before, model) == set()


def test_adapters_and_a_theta_of_their_own_are_compared(tmp_path: Path) -> None:
    tiny("bert").make().save_pretrained(tmp_path / "base")
    base = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    phi, theta = (LoraConfig(r=2, target_modules=[name]) for name in ("value", "query"))
    get_language_model(base, phi, ["en", "sw"], shared=theta).save_pretrained(tmp_path / "model")
    damage(tmp_path / "model" / SHARED_ADAPTER / "adapter_model.safetensors")
    with pytest.raises(HubError, match=rf"{RULE}.*: {SHARED_ADAPTER}/adapter_model.safetensors"):
        load(tmp_path / "model")


def test_only_what_is_asked_for_is_compared(saved: Path) -> None:
    damage(saved / "sw" / "adapter_model.safetensors")
    assert load(saved, languages=["en"]).languages == ("en",)
    with pytest.raises(HubError, match=r": sw/adapter_model.safetensors has other content"):
        load(saved, languages=["sw"])


def test_a_damaged_adapter_is_not_loaded_by_itself(saved: Path, tmp_path: Path) -> None:
    model = adapted("bert", "lora")
    before = snapshot(model)
    damage(saved / "sw" / "adapter_model.safetensors")
    with pytest.raises(HubError, match=r": sw/adapter_model.safetensors has other content"):
        model.load_language("sw", saved / "sw")
    assert moved(before, model) == set()
    model.load_language("sw", saved / "en")

    # Nobody has recorded anything about an adapter that lies elsewhere.
    shutil.copytree(saved / "sw", tmp_path / "elsewhere")
    model.load_language("sw", tmp_path / "elsewhere")


def test_sizes_and_absent_files_are_named_together(saved: Path) -> None:
    model = adapted("llama", "lora")
    model.save_pretrained(saved)
    (saved / "generation_config.json").unlink()
    with (saved / "en" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(
        HubError,
        match=r": en/adapter_model.safetensors has [\d,]+ bytes instead of [\d,]+;"
        r" generation_config.json is missing\. Save or copy the model again, or leave",
    ):
        load(saved)


def test_a_file_that_was_changed_on_purpose_is_read_without_its_entry(saved: Path) -> None:
    """As the error says: PEFT has saved an adapter again, in another precision."""
    base = AutoModelForMaskedLM.from_pretrained(saved)
    plain = PeftModel.from_pretrained(base, str(saved), subfolder="sw", adapter_name="sw")
    for name, parameter in plain.named_parameters():
        if "lora_" in name:
            parameter.data = (2 * parameter.data).double()
    plain.save_pretrained(saved, selected_adapters=["sw"])
    with pytest.raises(HubError, match=r"changed a file on purpose, delete its entry under") as it:
        load(saved)
    named = [name for name in manifest(saved)["sha256"] if f" {name} has" in str(it.value)]
    assert named == ["sw/adapter_model.safetensors", "sw/adapter_config.json"]

    content = manifest(saved)
    for name in named:
        del content["sha256"][name]
    content["files"][named[0]] = (saved / named[0]).stat().st_size
    (saved / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    batch = tiny("bert").batch()
    expected = outputs(plain.float().eval(), batch)
    again = load(saved)
    assert same(outputs(again, batch, language="sw"), expected)

    # Saving records it anew.
    again.save_pretrained(saved)
    assert named[0] in manifest(saved)["sha256"]


def test_what_is_not_read_may_change(saved: Path) -> None:
    (saved / "README.md").write_text("My own words.", encoding="utf-8")
    (saved / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert load(saved).languages == ("en", "sw")


def test_a_manifest_of_an_earlier_version_is_compared_as_far_as_it_goes(saved: Path) -> None:
    content = manifest(saved)
    del content["sha256"]
    (saved / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    damage(saved / "sw" / "adapter_model.safetensors")
    assert load(saved).languages == ("en", "sw")

    with (saved / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HubError, match=rf"{RULE}.*: model.safetensors has [\d,]+ bytes instead"):
        load(saved)


def test_the_checksums_are_those_of_the_hub_and_of_every_push(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw"], shared="none"))
    model.push_to_hub(FAMILY)
    before = json.loads(hub.repositories[FAMILY].files()[MANIFEST])["sha256"]
    large = lfs(hub)
    assert {path: before[path] for path in large} == large
    assert len(large) == 3

    model = load(FAMILY, languages=["sw"])
    model.add_language("yo", copy_from="sw")
    model.train_only("sw", "yo")
    stirred(model).push_to_hub(FAMILY, languages=["sw", "yo"])
    after = json.loads(hub.repositories[FAMILY].files()[MANIFEST])["sha256"]
    tree = hub.repositories[FAMILY].files()
    assert after == {path: hashlib.sha256(tree[path]).hexdigest() for path in after}
    changed = {path for path in after if before.get(path) != after[path]}
    assert {path.split("/")[0] for path in changed} == {"sw", "yo"}
    assert load(FAMILY).languages == ("en", "sw", "yo")


def lfs(hub: HubServer) -> dict[str, str]:
    """The checksums that the Hub itself has of large files."""
    tree = hub.repositories[FAMILY].files()
    return {
        path: name
        for path, content in tree.items()
        for name, blob in hub.blobs.items()
        if blob == content
    }


def test_a_language_joins_a_family_of_an_earlier_version(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw"]))
    model.push_to_hub(FAMILY)
    files = dict(hub.repositories[FAMILY].files())
    content = json.loads(files[MANIFEST])
    del content["sha256"]
    hub.repositories[FAMILY].commit("main", {**files, MANIFEST: json.dumps(content).encode()}, "")

    model.push_to_hub(FAMILY, languages=["sw"])
    found = json.loads(hub.repositories[FAMILY].files()[MANIFEST])["sha256"]
    assert {path.split("/")[0] for path in found} == {"sw"}
    assert load(FAMILY).languages == ("en", "sw")


@pytest.mark.parametrize("name", ["config.json", "sw/adapter_model.safetensors"])
def test_a_damaged_download_is_refused_until_it_is_deleted(
    name: str, hub: HubServer, tmp_path: Path
) -> None:
    stirred(adapted("bert", "lora")).push_to_hub(FAMILY)
    load(FAMILY, cache_dir=tmp_path)
    [path] = tmp_path.glob(f"models--*/snapshots/*/{name}")
    blob = path.resolve()
    damage(blob)
    for options in ({}, {"local_files_only": True}):
        with pytest.raises(HubError, match=rf"{RULE}.*: {name} has other .*Delete {blob} and load"):
            load(FAMILY, cache_dir=tmp_path, **options)

    blob.unlink()
    assert load(FAMILY, cache_dir=tmp_path).languages == ("en", "sw")


def test_a_published_file_that_was_edited_is_refused(hub: HubServer, tmp_path: Path) -> None:
    """Other activations of the same shapes would give other outputs without a word."""
    stirred(adapted("bert", "lora")).push_to_hub(FAMILY)
    files = dict(hub.repositories[FAMILY].files())
    config = {**json.loads(files["config.json"]), "hidden_act": "relu"}
    files["config.json"] = json.dumps(config).encode()
    hub.repositories[FAMILY].commit("main", files, "edited")
    with pytest.raises(HubError, match=rf"{RULE}.*: config.json has other content"):
        load(FAMILY, cache_dir=tmp_path)

    sign_tree(files)
    hub.repositories[FAMILY].commit("main", files, "signed")
    assert load(FAMILY, cache_dir=tmp_path).config.hidden_act == "relu"


def test_a_checkpoint_is_read_once_for_its_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**options: object) -> None:
        trainer = make_trainer(
            tmp_path, make_model(), save_strategy="steps", save_steps=1, **options
        )
        trainer.train(resume_from_checkpoint=(tmp_path / "checkpoint-1").is_dir())

    run(max_steps=1)
    read = []
    original = checksums.file_sha256
    monkeypatch.setattr(checksums, "file_sha256", lambda path: read.append(path) or original(path))
    run(max_steps=2)
    assert {path for path in read if "checkpoint-1" in path.parts} == set()
    assert any("checkpoint-2" in path.parts for path in read)

    # A checkpoint is a saved model like any other.
    damage(tmp_path / "checkpoint-2" / "model.safetensors")
    with pytest.raises(HubError, match=rf"{RULE}.*: model.safetensors has other content"):
        load(tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"backend": "peft"', '"backend": "none", "backend": "peft"', "the key 'backend' comes"),
        ('"sha256": {', '"sha256": {"config.json": "0", ', "the key 'config.json' comes twice"),
        ('"sha256": {', '"sha256": [], "more": {', r"`sha256` is \[\]\. Download or save"),
        ('"languages": [', '"languages": ["no", ', "weights of no: none declared"),
    ],
)
def test_a_manifest_that_says_two_things_is_refused(
    old: str, new: str, message: str, saved: Path
) -> None:
    text = (saved / MANIFEST).read_text(encoding="utf-8")
    assert old in text
    (saved / MANIFEST).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(HubError, match=message):
        load(saved)


@pytest.mark.parametrize("size", ["NaN", "Infinity", "1e3", "true", "-1", '"9"'])
def test_a_size_that_is_no_number_of_bytes_is_refused(size: str, saved: Path) -> None:
    number = str(read_manifest(saved).files["model.safetensors"])
    text = (saved / MANIFEST).read_text(encoding="utf-8")
    (saved / MANIFEST).write_text(text.replace(number, size), encoding="utf-8")
    with pytest.raises(HubError, match="`files` holds the sizes of safetensors files"):
        load(saved)


def test_details_that_are_no_number_stay_readable(saved: Path) -> None:
    adapted("bert", "lora").save_pretrained(saved, train_runtime=float("nan"))
    assert load(saved).languages == ("en", "sw")


@pytest.mark.parametrize("name", ["SW", "sw "])
def test_a_folder_of_nearly_the_same_name_is_not_taken(name: str, saved: Path) -> None:
    os.rename(saved / "sw", saved / name)
    if (saved / "sw").exists():
        pytest.skip("this file system ignores the difference")
    with pytest.raises(HubError, match=r"Found no such folder: .*sw\."):
        load(saved)


def test_values_of_the_weights_are_those_that_were_saved(saved: Path) -> None:
    """The kind of damage that nothing else notices: other numbers of the right shape."""
    weights = AutoModelForMaskedLM.from_pretrained(saved)
    weights.bert.embeddings.word_embeddings.weight.data += torch.tensor(1.0)
    weights.save_pretrained(saved)
    with pytest.raises(HubError, match=rf"{RULE}.*: model.safetensors has other content"):
        load(saved)

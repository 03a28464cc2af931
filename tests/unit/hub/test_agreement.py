"""A manifest that contradicts its files, and numbers of another kind than the model's, are refused:
they would load as another model than the one that was saved.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_meta_adapters import LanguageAdapterModel, get_language_model, list_languages
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import MANIFEST, SHARED_ADAPTER
from tests.adapted import adapted, moved, outputs, same, snapshot, stirred
from tests.hub_server import HubServer
from tests.signed import sign
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
WEIGHTS = "adapter_model.safetensors"
KINDS = [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64]


def edit(folder: Path, **changes: object) -> None:
    """Change entries of the manifest."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) | changes
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def declare(folder: Path, *without: str, **added: int) -> None:
    """Change what the manifest declares of its files."""
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    kept = {name: size for name, size in files.items() if name not in without}
    edit(folder, files={**kept, **added})


def cast(folder: Path, file: str, name: str, dtype: torch.dtype) -> None:
    """Change the type of one tensor of a file of a saved model."""
    path = folder / file
    # Copies: the file is replaced while it may be mapped into memory.
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors[name] = tensors[name].to(dtype)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    sign(folder)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model whose languages have adapters."""
    stirred(adapted("bert", "lora")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def theta(tmp_path: Path) -> Path:
    """A saved model in which θ is an adapter over a base that is only named."""
    tiny("bert").make().save_pretrained(tmp_path / "base")
    base = type(tiny("bert").make()).from_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["query"])
    model = get_language_model(
        base, LoraConfig(r=2, target_modules=["value"]), ["en", "sw"], shared=config
    )
    stirred(model).save_pretrained(tmp_path / "theta")
    return tmp_path / "theta"


def test_a_manifest_without_adapters_must_not_declare_any(saved: Path) -> None:
    edit(saved, backend="none")
    message = (
        r"entries must agree with the weights that `files` declares. Found in .*model `backend`:"
        rf" 'none', .*nothing is read from en/{WEIGHTS}, sw/{WEIGHTS}. Download or save"
    )
    for ask in (load, list_languages):
        with pytest.raises(HubError, match=message):
            ask(saved)


def test_a_manifest_without_a_shared_adapter_must_not_declare_one(theta: Path) -> None:
    edit(theta, shared_adapter=False)
    with pytest.raises(
        HubError,
        match=rf"`shared_adapter`: False, .*nothing is read from {SHARED_ADAPTER}/{WEIGHTS}",
    ):
        load(theta)


def test_one_adapter_for_all_or_one_each(saved: Path, tmp_path: Path) -> None:
    edit(saved, share_adapter=True)
    with pytest.raises(HubError, match=r"`share_adapter`: True, .*nothing is read from en/"):
        load(saved)

    adapted("bert", "lora", share_adapter=True).save_pretrained(tmp_path / "one")
    edit(tmp_path / "one", share_adapter=False)
    with pytest.raises(HubError, match=rf"`share_adapter`: False, .*read from {SHARED_ADAPTER}/"):
        load(tmp_path / "one")


def test_a_family_that_names_its_base_must_not_declare_another(saved: Path, theta: Path) -> None:
    edit(saved, base_model=str(theta.parent / "base"))
    with pytest.raises(HubError, match=r"`base_model`: '.*base', .*read from model.safetensors"):
        load(saved)


def test_a_contradiction_leaves_a_live_model_as_it_was(saved: Path) -> None:
    model = stirred(adapted("bert", "lora"))
    before = snapshot(model)
    edit(saved, backend="none")
    with pytest.raises(HubError, match="entries must agree with"):
        model.load_weights(saved)
    assert moved(before, model) == set()


def test_a_published_contradiction_is_refused(saved: Path, hub: HubServer, tmp_path: Path) -> None:
    edit(saved, backend="none")
    paths = [path for path in saved.rglob("*") if path.is_file()]
    files = {path.relative_to(saved).as_posix(): path.read_bytes() for path in paths}
    hub.repository("eve/family", files)
    with pytest.raises(HubError, match=rf"nothing is read from en/{WEIGHTS}"):
        load("eve/family", cache_dir=tmp_path / "cache")


def test_every_language_needs_declared_files(saved: Path) -> None:
    declare(saved, f"sw/{WEIGHTS}")
    with pytest.raises(
        HubError,
        match=r"must declare the weights of each.*Found in .*model: weights of sw: none declared\.",
    ):
        load(saved)
    assert load(saved, languages=["en"]).languages == ("en",)

    edit(saved, languages=["en", "sw", "te"])
    with pytest.raises(HubError, match="weights of sw: none declared; weights of te: none"):
        load(saved)


def test_the_shared_weights_need_declared_files(saved: Path, theta: Path) -> None:
    declare(saved, "model.safetensors")
    with pytest.raises(HubError, match="weights of the shared model: none declared"):
        load(saved)

    declare(theta, f"{SHARED_ADAPTER}/{WEIGHTS}")
    with pytest.raises(HubError, match=f"weights of {SHARED_ADAPTER}: none declared"):
        load(theta)


def test_files_need_a_language(saved: Path) -> None:
    edit(saved, languages=["en"])
    with pytest.raises(HubError, match=rf"in those of languages. Found in .*'sw/{WEIGHTS}'"):
        load(saved)


def test_a_manifest_that_declares_no_files_at_all_is_an_early_one(saved: Path) -> None:
    expected = outputs(load(saved), tiny("bert").batch(), language="sw")
    content = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))
    del content["files"]
    (saved / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    assert same(outputs(load(saved), tiny("bert").batch(), language="sw"), expected)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_adapters_of_another_kind_of_number_are_refused(dtype: torch.dtype, saved: Path) -> None:
    model = load(saved)
    before = snapshot(model)
    name = sorted(load_file(saved / "sw" / WEIGHTS))[0]
    cast(saved, f"sw/{WEIGHTS}", name, dtype)

    message = rf"Found in .*sw/{WEIGHTS}: {name}: {dtype} in the file, torch.float32 in the model\."
    calls = (
        lambda: load(saved),
        lambda: model.load_weights(saved),
        lambda: model.load_language("sw", saved / "sw"),
    )
    for call in calls:
        with pytest.raises(HubError, match=message):
            call()
    own = {key for key in moved(before, model) if ".sw." in key}
    assert own == set()
    assert load(saved, languages=["en"]).languages == ("en",)


def test_a_shared_adapter_of_whole_numbers_is_refused(theta: Path) -> None:
    path = theta / SHARED_ADAPTER / WEIGHTS
    name = sorted(load_file(path))[0]
    cast(theta, f"{SHARED_ADAPTER}/{WEIGHTS}", name, torch.int8)
    with pytest.raises(HubError, match=rf"Found in .*{name}: torch.int8 in the file"):
        load(theta)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_shared_weights_of_another_kind_of_number_are_refused(
    dtype: torch.dtype, saved: Path
) -> None:
    model = stirred(adapted("bert", "lora"))
    before = snapshot(model)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    cast(saved, "model.safetensors", name, dtype)

    message = rf"must be floating-point numbers.*Found in .*model: {name} of type \w+ \(1 in all\)"
    calls = (
        lambda: load(saved),
        lambda: load(saved, auto_class=AutoModel),
        lambda: model.load_weights(saved),
    )
    for call in calls:
        with pytest.raises(HubError, match=message):
            call()
    assert moved(before, model) == set()


def test_every_shard_is_looked_at(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    name = sorted(load_file(shards[-1]))[0]
    cast(tmp_path, shards[-1].name, name, torch.int8)
    with pytest.raises(HubError, match=f"Found in .*: {name} of type I8"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_are_read(dtype: torch.dtype, saved: Path) -> None:
    name = sorted(load_file(saved / "sw" / WEIGHTS))[0]
    expected = load_file(saved / "sw" / WEIGHTS)[name].to(dtype).float()
    cast(saved, f"sw/{WEIGHTS}", name, dtype)
    cast(saved, "model.safetensors", "bert.embeddings.LayerNorm.weight", dtype)

    found = load(saved).language_parameters("sw").values()
    assert any(torch.equal(parameter, expected) for parameter in found)


def test_whole_numbers_that_are_no_weights_are_left_alone(saved: Path) -> None:
    """Early versions of transformers saved the table of positions."""
    path = saved / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(8).unsqueeze(0)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    sign(saved)
    assert load(saved).languages == ("en", "sw")

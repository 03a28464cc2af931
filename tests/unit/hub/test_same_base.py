"""A named base is what its name loads: whatever differs is saved with the family."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, TrainableTokensConfig
from safetensors.torch import load_file, save_file
from torch import nn

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.hub.manifest import read_manifest
from tests.adapted import METHODS, lora, outputs, same, stirred
from tests.tiny import HEADS, TinyModel, tiny

LANGUAGES, NEW = ["en", "sw"], 66
load = LanguageAdapterModel.from_pretrained


def theta(**options: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules="all-linear", **options)


def loaded_base(cell: TinyModel, place: Path, **options: Any) -> Any:
    if not place.exists():
        cell.make().save_pretrained(place)
    return getattr(transformers, HEADS[cell.head]).from_pretrained(place, **options)


def resize(base: Any) -> None:
    base.resize_token_embeddings(70)


def in_place(base: Any) -> None:
    with torch.no_grad():
        list(base.parameters())[-1].add_(0.1)


def untie(base: Any) -> None:
    base.lm_head.weight = nn.Parameter(2 * base.lm_head.weight.detach())
    base.config.tie_word_embeddings = False


def check(cell: TinyModel, base: Any, shared: Any, folder: Path, *, is_named: bool) -> None:
    """Saved and loaded bitwise, and again into the same model."""
    model = get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES, shared=shared)
    stirred(model.eval(), 0.1)
    batch = cell.batch()
    batch["input_ids"][:, 0] = min(NEW, base.get_input_embeddings().weight.shape[0] - 1)
    expected = outputs(model, batch, language="sw")
    model.save_pretrained(folder)
    assert bool(read_manifest(folder).base_model) is is_named
    assert bool(list(folder.glob("*.safetensors"))) is not is_named
    loaded = load(folder)
    assert same(outputs(loaded, batch, language="sw"), expected)
    stirred(loaded).load_weights(folder)
    assert same(outputs(loaded, batch, language="sw"), expected)
    model.load_weights(folder)


CHANGES: dict[str, Callable[[Any], object]] = {
    "new tokens": resize,
    "weights in place": in_place,
    "another number type": lambda base: base.to(torch.bfloat16),
    "a setting": lambda base: setattr(base.config, "pad_token_id", 5),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
# `.to` also rounds buffers that no checkpoint has, such as those of rotary positions
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("bert", change) for change in CHANGES),
        *(("gemma3", change) for change in CHANGES if change != "another number type"),
    ],
)
def test_what_was_changed_is_saved(name: str, change: str, tmp_path: Path) -> None:
    cell = tiny(name)
    base = loaded_base(cell, tmp_path / "base")
    CHANGES[change](base)
    check(cell, base, theta(), tmp_path / "family", is_named=False)


@pytest.mark.parametrize("name", ["llama", "gemma3", "bert", "mt5", "mbart", "gpt2"])
def test_what_was_not_changed_is_named(name: str, tmp_path: Path) -> None:
    cell = tiny(name)
    base = loaded_base(cell, tmp_path / "base")
    if cell.kind != "encoder_decoder":  # where the cache changes the rounding
        base.config.use_cache = False  # as trainers set it
    check(cell, base, lora(base), tmp_path / "family", is_named=True)


def test_a_number_type_that_was_asked_for_is_no_change(tmp_path: Path) -> None:
    cell = tiny("llama")
    base = loaded_base(cell, tmp_path / "base", dtype=torch.bfloat16)
    check(cell, base, theta(), tmp_path / "family", is_named=True)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    "shared",
    [
        theta(modules_to_save=["embed_tokens"]),
        theta(modules_to_save=["lm_head"]),
        LoraConfig(r=2, target_modules=["embed_tokens"]),
        TrainableTokensConfig(token_indices=[3, NEW]),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_new_tokens_that_theta_trains(name: str, shared: Any, tmp_path: Path) -> None:
    cell = tiny(name)
    base = loaded_base(cell, tmp_path / "base")
    resize(base)
    check(cell, base, shared, tmp_path / "family", is_named=False)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "copy_attention"])
def test_every_method_as_theta_over_a_changed_base(method: str, tmp_path: Path) -> None:
    cell = tiny("llama")
    base = loaded_base(cell, tmp_path / "base")
    resize(base)
    model = get_language_model(base, None, LANGUAGES, shared=METHODS[method](base))
    batch = cell.batch()
    batch["input_ids"][:, 0] = NEW
    expected = outputs(stirred(model.eval(), 0.1), batch, language="sw")
    model.save_pretrained(tmp_path / "family")
    assert same(outputs(load(tmp_path / "family"), batch, language="sw"), expected)


def test_a_head_of_another_size_is_saved(tmp_path: Path) -> None:
    cell = tiny("bert", "token_classification")
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    base = loaded_base(cell, tmp_path / "base")
    base = loaded_base(cell, tmp_path / "base", **options)
    check_classifier(cell, base, tmp_path / "family")


def check_classifier(cell: TinyModel, base: Any, folder: Path) -> None:
    model = get_language_model(base, None, LANGUAGES, shared=theta())
    expected = outputs(stirred(model.eval(), 0.1), {"input_ids": cell.batch()["input_ids"]})
    model.save_pretrained(folder)
    assert read_manifest(folder).base_model == ""
    assert same(outputs(load(folder), {"input_ids": cell.batch()["input_ids"]}), expected)


def test_embeddings_that_were_untied_are_saved(tmp_path: Path) -> None:
    cell = tiny("gemma3")
    base = loaded_base(cell, tmp_path / "base")
    untie(base)
    check(cell, base, theta(), tmp_path / "family", is_named=False)


def test_a_setting_given_to_from_pretrained_is_kept(tmp_path: Path) -> None:
    cell = tiny("llama")
    loaded_base(cell, tmp_path / "base")
    base = loaded_base(cell, tmp_path / "base", rms_norm_eps=0.1)
    check(cell, base, theta(), tmp_path / "family", is_named=False)


def test_a_change_after_wrapping_is_seen_at_the_next_save(tmp_path: Path) -> None:
    cell = tiny("llama")
    base = loaded_base(cell, tmp_path / "base")
    model = get_language_model(base, None, LANGUAGES, shared=theta())
    for number in range(2):  # the second comparison is remembered
        model.save_pretrained(tmp_path / str(number))
        assert read_manifest(tmp_path / str(number)).base_model
    with torch.no_grad():
        base.lm_head.weight.add_(1)
    model.save_pretrained(tmp_path / "changed")
    assert not read_manifest(tmp_path / "changed").base_model
    with torch.no_grad():
        base.lm_head.weight.copy_(
            load_file(tmp_path / "base" / "model.safetensors")["lm_head.weight"]
        )
    model.save_pretrained(tmp_path / "back")
    assert read_manifest(tmp_path / "back").base_model


def test_names_that_a_checkpoint_has_of_old_are_found(tmp_path: Path) -> None:
    cell = tiny("bert")
    loaded_base(cell, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    path.unlink()
    save_file(old, path, metadata={"format": "pt"})
    base = loaded_base(cell, tmp_path / "base")
    check(cell, base, theta(), tmp_path / "family", is_named=True)


def test_a_base_in_shards_is_compared(tmp_path: Path) -> None:
    cell = tiny("llama")
    cell.make().save_pretrained(tmp_path / "base", max_shard_size="5KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    base = loaded_base(cell, tmp_path / "base")
    check(cell, base, theta(), tmp_path / "family", is_named=True)


def test_a_base_whose_files_are_gone_is_saved(tmp_path: Path) -> None:
    cell = tiny("llama")
    base = loaded_base(cell, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    check(cell, base, theta(), tmp_path / "family", is_named=False)


_LOAD = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from hf_meta_adapters import LanguageAdapterModel
for folder in json.loads(sys.argv[1]):
    batch = load_file(f"{folder}/batch.safetensors")
    model = LanguageAdapterModel.from_pretrained(f"{folder}/family")
    with torch.no_grad():
        logits = model(**batch, language="sw").logits
    save_file({"logits": logits.contiguous()}, f"{folder}/found.safetensors")
"""


def test_a_fresh_process_computes_the_same(tmp_path: Path) -> None:
    expected, names = {}, ("llama", "gemma3", "bert")
    for name in names:
        cell, folder = tiny(name), tmp_path / name
        base = loaded_base(cell, folder / "base")
        resize(base)
        model = get_language_model(base, METHODS["lora"](base), LANGUAGES, shared=theta())
        batch = {"input_ids": torch.tensor([[NEW, 3, 4, 2]])}
        expected[name] = outputs(stirred(model.eval(), 0.1), batch, language="sw")[0]
        model.save_pretrained(folder / "family")
        save_file(batch, folder / "batch.safetensors")
    folders = json.dumps([str(tmp_path / name) for name in names])
    subprocess.run([sys.executable, "-c", _LOAD, folders], check=True, capture_output=True)
    for name in names:
        found = load_file(tmp_path / name / "found.safetensors")["logits"]
        assert torch.equal(found, expected[name])


def test_one_adapter_for_all_without_an_adapter_is_none(tmp_path: Path) -> None:
    """The manifest promised a folder `shared/` that nothing wrote."""
    model = get_language_model(tiny("bert").make(), None, LANGUAGES, share_adapter=True)
    assert not model.share_adapter
    model.save_pretrained(tmp_path)
    assert not read_manifest(tmp_path).one_adapter_for_all
    assert "shared/" not in (tmp_path / "README.md").read_text()
    assert load(tmp_path).languages == ("en", "sw")

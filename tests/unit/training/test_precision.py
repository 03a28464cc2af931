"""Checkpoints in bfloat16, as Llama, Qwen and Gemma are stored: trained in the precision that the
method needs, or refused before the first step with what to write instead.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    ModuleCopyConfig,
    get_language_model,
)
from hf_meta_adapters.errors import ConfigurationError
from tests.tiny import tiny
from tests.training import make_trainer, rows

LANGUAGES = ("en", "sw")
ROUNDS = "half precision rounds away updates"
ESTIMATORS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"preset": "fast"},
    "paper": {"preset": "paper"},
    "first_order": {"meta_gradient": "first_order"},
    "next": {"lookahead": "next"},
    "project": {"shared_update": "project"},
    "adam": {"inner_optimizer": "adam"},
    "train": {"adapter_update": "train"},
}
DIFFERENCES = ("default", "fast", "next", "project", "adam")


def lora(rank: int = 2) -> LoraConfig:
    return LoraConfig(r=rank, target_modules="all-linear")


ADAPTERS = {"bottleneck": lambda: BottleneckConfig(bottleneck_size=3), "lora": lora}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a decoder of one layer, in bfloat16."""

    def folder(name: str) -> Path:
        cell = tiny(name)
        sizes = {**cell.family.sizes, "num_hidden_layers": 1}
        if "layer_types" in sizes:
            sizes["layer_types"] = sizes["layer_types"][:1]
        path = tmp_path_factory.mktemp(name)
        cell = replace(cell, family=replace(cell.family, sizes=sizes))
        cell.make(torch.bfloat16).save_pretrained(path)
        return path

    folders = {name: folder(name) for name in ("llama", "qwen3", "gemma3")}
    return lambda name, **options: AutoModelForCausalLM.from_pretrained(
        folders[name], **{"dtype": "auto", **options}
    )


def texts(seed: int) -> dict[str, Any]:
    """Rows whose labels are their words."""
    found = {}
    for number, language in enumerate(LANGUAGES):
        words = [row["input_ids"] for row in rows(100 * seed + number)]
        found[language] = [{"input_ids": row, "labels": row} for row in words]
    return found


def trainer_of(folder: Path, model: LanguageAdapterModel, **given: Any) -> Any:
    """A Trainer of one step."""
    meta = None if given.get("lookahead") == "next" else texts(2)
    data = {"train_dataset": texts(1), "meta_dataset": meta}
    return make_trainer(folder, model, max_steps=1, fidelity_check_steps=0, **data, **given)


def types(model: LanguageAdapterModel) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """The types of θ, and of a φ."""
    return (
        {one.dtype for one in model.shared_parameters().values()},
        {one.dtype for one in model.language_parameters("sw").values()},
    )


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_lora_over_a_base_in_bfloat16(name, bf16, estimator, stored, tmp_path):
    """θ and φ are in float32 over a frozen base: every estimator works, and nothing is rounded."""
    adapter = ADAPTERS["bottleneck" if bf16 else "lora"]()
    model = get_language_model(stored(name), adapter, LANGUAGES, shared=lora(3))
    assert types(model) == ({torch.float32}, {torch.float32})
    before = {key: one.detach().clone() for key, one in model.named_parameters()}

    trainer_of(tmp_path, model, bf16=bf16, **ESTIMATORS[estimator]).train()
    changed = {key for key, one in model.named_parameters() if not torch.equal(before[key], one)}
    owned = [*model.shared_parameters()]
    owned += [key for language in LANGUAGES for key in model.language_parameters(language)]
    # What stands behind the zeros of a fresh adapter has no gradient yet.
    assert changed <= set(owned)
    assert changed & set(model.shared_parameters())
    assert changed & set(model.language_parameters("sw"))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shared_weights_in_bfloat16(adapter, bf16, estimator, stored, tmp_path):
    """A finite difference refuses them when the Trainer is made; other estimators warn."""
    model = get_language_model(stored("llama"), ADAPTERS[adapter](), LANGUAGES)
    assert types(model) == ({torch.bfloat16}, {torch.float32})

    given = {"bf16": bf16, **ESTIMATORS[estimator]}
    if estimator in DIFFERENCES:
        said = r'Found `.*` in bfloat16. Pass `dtype="float32"`.*`--dtype float32`.*`--shared lo'
        with pytest.raises(ConfigurationError, match=said):
            trainer_of(tmp_path, model, **given)
        return

    with pytest.warns(UserWarning, match=ROUNDS):
        trainer = trainer_of(tmp_path, model, **given)
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("estimator", ["default", "fast", "paper"])
def test_the_cure_works(name, estimator, stored, tmp_path):
    """Weights in float32, computed with in bfloat16."""
    base = stored(name, dtype="float32")
    model = get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES)
    assert types(model) == ({torch.float32}, {torch.float32})
    trainer = trainer_of(tmp_path, model, bf16=True, **ESTIMATORS[estimator])
    assert trainer.train().global_step == 1


@pytest.mark.parametrize(
    ("config", "shared", "expectation"),
    [
        (ModuleCopyConfig("layer_norm"), lora(), pytest.warns(UserWarning, match=ROUNDS)),
        (None, lora(), nullcontext()),
        (None, "all", pytest.warns(UserWarning, match=ROUNDS)),
    ],
    ids=["copies", "joint, LoRA", "joint"],
)
def test_what_is_in_half_precision_counts(config, shared, expectation, stored, tmp_path):
    """Copies of modules have the type of the module, whatever θ has."""
    model = get_language_model(stored("llama"), config, LANGUAGES, shared=shared)
    with expectation:
        trainer_of(tmp_path, model)


def test_scores_need_no_precision(stored, tmp_path):
    model = get_language_model(stored("llama"), BottleneckConfig(bottleneck_size=3), LANGUAGES)
    metrics = make_trainer(
        tmp_path, model, train_dataset=None, meta_dataset=None, eval_dataset=texts(3)
    ).evaluate()
    assert metrics["eval_loss"] > 0


def test_fp16_needs_weights_in_float32(stored, tmp_path):
    base = stored("llama").to(torch.float16)
    model = get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES)
    with pytest.raises(ConfigurationError, match=r"`fp16=True`.*in float16. Pass `dtype"):
        trainer_of(tmp_path, model, fp16=True, adapter_update="train")


@pytest.mark.parametrize("shared", ["all", "lora"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_family_keeps_its_types(adapter, shared, stored, tmp_path):
    """The base stays in bfloat16 and φ in float32, in the files and after they are read."""
    theta = lora(3) if shared == "lora" else "all"
    base = stored("llama")
    model = get_language_model(base, ADAPTERS[adapter](), LANGUAGES, shared=theta)
    with torch.no_grad():
        for parameter in model.language_parameters("sw").values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)

    words = load_file(tmp_path / "sw" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in words.values()} == {torch.float32}
    if shared == "all":
        weights = load_file(tmp_path / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}

    again = LanguageAdapterModel.from_pretrained(tmp_path)
    assert types(again) == types(model)
    assert {one.dtype for one in again.base_model.parameters()} == {
        one.dtype for one in model.base_model.parameters()
    }
    for old, new in zip(
        model.language_parameters("sw").values(),
        again.language_parameters("sw").values(),
        strict=True,
    ):
        assert torch.equal(old, new)

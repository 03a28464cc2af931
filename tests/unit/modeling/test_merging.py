"""A merged model computes what the model with languages computes, and so does its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import IA3Config, LNTuningConfig, LoraConfig
from torch import Tensor

from hf_meta_adapters import ModuleCopyConfig, get_language_model
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import MERGEABLE, METHODS, adapted, moved, outputs, snapshot, stirred
from tests.tiny import HEADS, TinyModel, tiny

LANE_5 = transformers.__version__.startswith("5")
FAMILIES = ("bert", "gpt2", "llama", "gemma3", "mt5", "mbart")
# PEFT warns when it meets tied embeddings; what it warns of is what these tests check
pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied")


def near(found: list[Tensor], expected: list[Tensor]) -> bool:
    pairs = list(zip(found, expected, strict=True))
    return len(pairs) > 0 and all((one - two).norm() <= 1e-5 * two.norm() for one, two in pairs)


def last_name(base: Any, module: Any) -> str:
    return next(name for name, part in base.named_modules() if part is module).split(".")[-1]


def embeddings(base: Any) -> str:
    return last_name(base, base.get_input_embeddings())


def head(base: Any) -> str:
    return last_name(base, base.get_output_embeddings())


LINEAR = {
    "bert": "query",
    "gpt2": "c_attn",
    "llama": "q_proj",
    "gemma3_text": "q_proj",
    "mt5": "q",
    "mbart": "q_proj",
}


def linear(base: Any, **options: Any) -> LoraConfig:
    """LoRA on some linear layers of the body."""
    return LoraConfig(r=2, target_modules=[LINEAR[base.config.model_type]], **options)


TIED: dict[str, Callable[[Any], Any]] = {
    "lora of the head": lambda base: LoraConfig(r=2, target_modules=[head(base)]),
    "lora of the embeddings": lambda base: LoraConfig(r=2, target_modules=[embeddings(base)]),
    "lora of both": lambda base: LoraConfig(r=2, target_modules=[embeddings(base), head(base)]),
    "ia3 of the head": lambda base: IA3Config(target_modules=[head(base)], feedforward_modules=[]),
    "own head": lambda base: linear(base, modules_to_save=[head(base)]),
    "own embeddings": lambda base: linear(base, modules_to_save=[embeddings(base)]),
    "copied head": lambda base: ModuleCopyConfig([head(base)]),
    "copied embeddings": lambda base: ModuleCopyConfig([embeddings(base)]),
}
_MT5 = ("lora of the embeddings", "lora of both", "own embeddings", "copied embeddings")
REFUSED = set()
if not LANE_5:
    # always tied: the embeddings of mT5, and the biases of these heads
    REFUSED |= {("mt5", what) for what in _MT5}
    REFUSED |= {("bert", what) for what in ("own head", "copied head", "ia3 of the head")}


def check_merged(cell: TinyModel, model: Any, folder: Path, **options: Any) -> Any:
    """The merged model, after the checks that the promise makes."""
    batch = cell.batch()
    before, expected = snapshot(model), outputs(model, batch, language="sw")
    modes = [part.training for part in model.modules()]
    merged = model.merge_language("sw", **options)
    assert moved(before, model) == set()
    assert [part.training for part in model.modules()] == modes
    assert near(outputs(merged, batch), expected)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not any("lora" in name or "modules_to_save" in name for name in merged.state_dict())

    merged.save_pretrained(folder)
    loaded = getattr(transformers, HEADS[cell.head]).from_pretrained(folder)
    assert all(map(torch.equal, outputs(loaded, batch), outputs(merged, batch)))
    return merged


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize("what", TIED)
@pytest.mark.parametrize("name", FAMILIES)
def test_tied_embeddings_are_merged_apart(name: str, what: str, tmp_path: Path) -> None:
    cell = tiny(name)
    base = cell.make()
    weights = [part.weight for part in (base.get_input_embeddings(), base.get_output_embeddings())]
    is_tied = weights[0] is weights[1]
    model = stirred(get_language_model(base, TIED[what](base), ["en", "sw"]), 0.2)
    if (name, what) in REFUSED:
        with pytest.raises(ConfigurationError, match=r"must compute what the model.*Keep the adap"):
            model.merge_language("sw")
        return

    merged = check_merged(cell, model, tmp_path)
    if is_tied:
        assert merged.config.tie_word_embeddings is False
        assert merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mt5", "bert"])
def test_what_leaves_the_embeddings_alone_leaves_them_tied(name: str, tmp_path: Path) -> None:
    cell = tiny(name)
    flag = cell.config().tie_word_embeddings
    merged = check_merged(cell, stirred(adapted(name, "copy_layer_norm")), tmp_path)
    assert merged.config.tie_word_embeddings is flag
    assert merged.state_dict().keys() == cell.make().state_dict().keys()


# of the others, copies would hold parts of θ, which is refused
BESIDE = [method for method in MERGEABLE if method not in ("copy_feed_forward", "copy_attention")]


@pytest.mark.parametrize("method", BESIDE)
@pytest.mark.parametrize("name", ["xlm-r", "gemma3"])
def test_every_method_beside_a_theta_of_lora(name: str, method: str, tmp_path: Path) -> None:
    cell = tiny(name)
    base = cell.make()
    shared = LoraConfig(r=2, target_modules="all-linear", use_rslora=True)
    model = get_language_model(base, METHODS[method](base), ["en", "sw"], shared=shared)
    check_merged(cell, stirred(model, 0.1), tmp_path)


_Q = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
VARIANTS = {
    "dora": LoraConfig(use_dora=True, **_Q),
    "rslora": LoraConfig(use_rslora=True, lora_alpha=3, **_Q),
    "patterns": LoraConfig(rank_pattern={"q_proj": 4}, alpha_pattern={"v_proj": 5}, **_Q),
    "tokens": LoraConfig(trainable_token_indices=[3, 40], **_Q),
    "parameters": LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"]),
    "norms of its own": LoraConfig(modules_to_save=["norm"], **_Q),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_lora(variant: str, tmp_path: Path) -> None:
    cell = tiny("gemma3")
    model = get_language_model(cell.make(), VARIANTS[variant], ["en", "sw"])
    check_merged(cell, stirred(model, 0.2), tmp_path)


THETAS = {
    "lora": {},
    "a head of its own": {"modules_to_save": ["classifier"]},
    "dora": {"use_dora": True, "target_modules": ["output.dense"]},
}


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("phi", ["lora", "layer_norm", None])
def test_a_classifier_that_theta_has(theta: str, phi: str | None, tmp_path: Path) -> None:
    cell = tiny("bert", "sequence_classification")
    base = cell.make()
    shared = LoraConfig(**{"r": 2, "target_modules": ["query", "dense"], **THETAS[theta]})
    config = LoraConfig(r=2, target_modules=["key"])
    if phi == "layer_norm":
        config = LNTuningConfig(target_modules=["LayerNorm"])
    model = get_language_model(base, phi and config, ["en", "sw"], shared=shared)
    check_merged(cell, stirred(model, 0.2), tmp_path)


@pytest.mark.parametrize("shared", ["all", "none"])
def test_a_classifier_per_language(shared: str, tmp_path: Path) -> None:
    """This ended in a `TypeError` of PEFT."""
    cell = tiny("xlm-r", "token_classification")
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    model = get_language_model(cell.make(), config, ["en", "sw"], shared=shared)
    check_merged(cell, stirred(model, 0.2), tmp_path)


def test_a_backend_that_merges_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stirred(adapted("bert", "lora"))
    right = model.backend.merged("sw")
    with torch.no_grad():
        right.bert.embeddings.LayerNorm.bias.add_(0.05)
    monkeypatch.setattr(model.backend, "merged", lambda adapter: right)
    with pytest.raises(ConfigurationError, match=r"must compute what the model computes"):
        model.merge_language("sw")


def test_a_batch_to_compare_on_may_be_given(tmp_path: Path) -> None:
    cell = tiny("llama", "sequence_classification")
    model = stirred(adapted(cell, "lora"))
    check_merged(cell, model, tmp_path, probe={"input_ids": torch.tensor([[5, 6]])})
    with pytest.raises(ConfigurationError, match=r"cannot run on \['pixels'\].*`probe=\{...\}`"):
        model.merge_language("sw", probe={"pixels": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_no_difference(dtype: torch.dtype) -> None:
    model = stirred(adapted("llama", "lora", dtype=dtype), 0.05)
    assert model.merge_language("sw").dtype == dtype

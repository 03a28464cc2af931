"""θ and φ of a language as one LoRA that plain PEFT, and a server, load on the base."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from safetensors.torch import load_file

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.tiny import tiny

BASES = ("llama", "qwen3", "gemma3", "gpt2", "bert", "mt5")
TARGETS = {"gpt2": ("c_attn", "c_proj"), "bert": ("query", "value"), "mt5": ("q", "wo")}


def randomized(model):
    """Adapters whose matrices are all away from zero, as after training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def exported(model, language, folder):
    """The base with the exported adapter, loaded by PEFT alone."""
    base = copy.deepcopy(BARE[id(model)])
    model.export_lora(language, folder)
    return PeftModel.from_pretrained(base, folder).eval()


BARE = {}


def make(name, theta, phi, **options):
    cell = tiny(name)
    base, inputs = cell.make(), cell.batch()
    bare = copy.deepcopy(base)
    shared = {} if theta is None else {"shared": theta}
    model = randomized(get_language_model(base, phi, ["en", "sw"], **shared, **options))
    BARE[id(model)] = bare
    return model, inputs


def logits(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


def check(model, inputs, folder, languages=("en", "sw")):
    for language in languages:
        expected = logits(model, inputs, language=language)
        found = logits(exported(model, language, folder / language), inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return expected


def read(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("name", BASES)
def test_unequal_ranks_scales_and_targets(name, tmp_path):
    first, second = TARGETS.get(name, ("q_proj", "down_proj"))
    conv = {"fan_in_fan_out": True} if name == "gpt2" else {}
    theta = LoraConfig(r=3, lora_alpha=7, target_modules=[first, second], **conv)
    phi = LoraConfig(r=2, lora_alpha=5, use_rslora=True, target_modules=[second], **conv)
    model, inputs = make(name, theta, phi)

    before = check(model, inputs, tmp_path)
    assert not torch.equal(logits(model, inputs, language="en"), before)

    # what a server reads: one rank for all layers, and no scale but 1
    config, tensors = read(tmp_path / "en")
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    patterns = (config["rank_pattern"], config["alpha_pattern"], config["use_rslora"])
    assert patterns == ({}, {}, False)
    assert sorted(config["target_modules"]) == sorted([first, second])
    ranks = {tensor.shape["lora_B" in key] for key, tensor in tensors.items()}
    assert ranks == {5}


def test_ranks_and_scales_that_differ_by_layer(tmp_path):
    theta = LoraConfig(
        r=2,
        target_modules="all-linear",
        rank_pattern={"q_proj": 5},
        alpha_pattern={"down_proj": 3},
    )
    phi = LoraConfig(r=1, target_modules=["up_proj", "q_proj"], rank_pattern={"up_proj": 4})
    model, inputs = make("llama", theta, phi)

    check(model, inputs, tmp_path)
    assert read(tmp_path / "en")[0]["r"] == 6


def test_embeddings(tmp_path):
    theta = LoraConfig(r=2, lora_alpha=3, target_modules=["embed_tokens", "q_proj"])
    model, inputs = make("llama", theta, LoraConfig(r=1, target_modules=["embed_tokens"]))
    check(model, inputs, tmp_path)


def test_some_layers_are_named_in_full(tmp_path):
    phi = LoraConfig(r=1, target_modules=r".*layers\.0\..*q_proj")
    model, inputs = make("llama", LoraConfig(r=2, target_modules=["v_proj"]), phi)

    check(model, inputs, tmp_path)
    named = read(tmp_path / "en")[0]["target_modules"]
    assert "model.layers.0.self_attn.q_proj" in named
    assert "q_proj" not in named


def test_without_theta_the_lora_is_that_of_the_language(tmp_path):
    model, inputs = make("llama", None, LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"]))
    check(model, inputs, tmp_path)
    assert read(tmp_path / "sw")[0]["r"] == 2


def test_without_languages_of_their_own_it_is_theta(tmp_path):
    model, inputs = make("llama", LoraConfig(r=2, target_modules=["q_proj"]), None)
    check(model, inputs, tmp_path)


def test_one_adapter_for_all_languages(tmp_path):
    phi = LoraConfig(r=2, target_modules=["q_proj"])
    model, inputs = make("llama", None, phi, share_adapter=True)
    check(model, inputs, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_scale_is_not_rounded_to_a_half_precision(dtype, tmp_path):
    model, _ = make("llama", None, LoraConfig(r=3, lora_alpha=4, target_modules=["q_proj"]))
    model.to(dtype)
    model.export_lora("en", tmp_path)

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    layer = model.base_model.model.layers[0].self_attn.q_proj
    expected = layer.lora_B["en"].weight.detach().double() * (4 / 3)
    found = read(tmp_path)[1][name]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("theta", "phi", "found"),
    [
        (None, LoraConfig(use_dora=True, target_modules=["q_proj"]), "use_dora=True"),
        (None, LoraConfig(lora_bias=True, target_modules=["query"]), "lora_B.bias"),
        (
            None,
            LoraConfig(target_modules=["q_proj"], modules_to_save=["v_proj"]),
            "v_proj.weight",
        ),
        (
            None,
            LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3]),
            "trainable_tokens",
        ),
        (
            LoraConfig(target_modules=["q_proj"]),
            IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
            "`IA3Config`",
        ),
        (None, BottleneckConfig(bottleneck_size=2), "`BottleneckConfig`"),
        (None, None, "a model without adapters"),
    ],
    ids=["dora", "bias", "copies", "tokens", "ia3", "bottleneck", "none"],
)
def test_what_is_no_lora_is_refused_by_name(theta, phi, found, tmp_path):
    model, _ = make("bert" if found == "lora_B.bias" else "llama", theta, phi)
    with pytest.raises(ConfigurationError, match=f"Found.*{found}"):
        model.export_lora("en", tmp_path / "en")
    assert not (tmp_path / "en").exists()


def test_a_folder_with_files_is_refused(tmp_path):
    model, _ = make("llama", None, LoraConfig(r=2, target_modules=["q_proj"]))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="new or empty"):
        model.export_lora("en", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_language_is_refused(tmp_path):
    model, _ = make("llama", None, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(LanguageError):
        model.export_lora("de", tmp_path)

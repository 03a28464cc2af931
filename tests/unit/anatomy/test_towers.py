"""Models with towers for images or sounds: by default, languages differ in the text model only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftConfig
from torch import nn

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    ModuleCopyConfig,
    get_language_model,
)
from hf_meta_adapters.anatomy.towers import text_modules
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import same, stirred
from tests.tiny import MODELS

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TOKENS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**SIZES, **TOKENS, "num_key_value_heads": 1, "head_dim": 8}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
CLIP = {"vision_config": {**IMAGE, "projection_dim": 8}, "projection_dim": 8}
SOUND = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 4,
    "max_source_positions": 6,
}
QWEN_TEXT = {**SIZES, **TOKENS, "num_key_value_heads": 1}
MROPE = {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}}
TOWERS = {
    "Gemma3": {
        "text_config": {**GROUPED, "query_pre_attn_scalar": 8},
        "vision_config": IMAGE,
        "mm_tokens_per_image": 4,
        "image_token_index": 60,
    },
    "Llava": {
        "text_config": {**GROUPED, "model_type": "llama"},
        "vision_config": {**IMAGE, "model_type": "clip_vision_model"},
        "image_token_index": 60,
    },
    "PaliGemma": {
        "text_config": {**GROUPED, "model_type": "gemma"},
        "vision_config": {**IMAGE, "model_type": "siglip_vision_model", "projection_dim": 16},
        "projection_dim": 16,
        "hidden_size": 16,
    },
    "Qwen2VL": {
        "text_config": {**QWEN_TEXT, **MROPE},
        "vision_config": {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "patch_size": 4,
        },
    },
    "Qwen2Audio": {
        "text_config": {**QWEN_TEXT, "model_type": "qwen2"},
        "audio_config": {**SOUND, "model_type": "qwen2_audio_encoder"},
        "audio_token_index": 60,
    },
}
METHODS = {
    "bottleneck": BottleneckConfig(bottleneck_size=3),
    "copy_layer_norm": ModuleCopyConfig("layer_norm"),
    "copy_feed_forward": ModuleCopyConfig("feed_forward"),
    "copy_attention": ModuleCopyConfig("attention"),
}
IN_TOWERS = re.compile(r"vision|visual|audio|projector")
WORDS = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4).long()}


def make(name: str) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**TOWERS[name])
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


def phi(model: LanguageAdapterModel) -> list[str]:
    return [name for key in model.languages for name in model.language_parameters(key)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TOWERS)
def test_every_parameter_of_a_language_is_trained_by_text(name: str, method: str) -> None:
    model = stirred(get_language_model(make(name), METHODS[method], ["en", "sw"]))
    assert not [one for one in phi(model) if IN_TOWERS.search(one)]

    model(**WORDS, labels=WORDS["input_ids"], language="sw").loss.backward()
    parameters = model.language_parameters("sw")
    assert parameters
    assert all(one.grad is not None and one.grad.any() for one in parameters.values())


@pytest.mark.parametrize("method", METHODS)
def test_two_towers_side_by_side(method: str) -> None:
    text = {**SIZES, "vocab_size": 64, "eos_token_id": 2, "projection_dim": 8}
    config = transformers.CLIPConfig(text_config=text, **CLIP)
    model = get_language_model(transformers.CLIPModel(config), METHODS[method], ["en", "sw"])
    assert phi(model)
    assert all(".text_model." in name for name in phi(model))


@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(bottleneck_size=3, target_modules=["out_proj", "o_proj"]),
        ModuleCopyConfig(["layer_norm1", "input_layernorm"]),
    ],
    ids=["bottleneck", "module copy"],
)
def test_named_modules_reach_the_towers_and_are_loaded_again(
    config: PeftConfig, tmp_path: Path
) -> None:
    model = stirred(get_language_model(make("Gemma3"), config, ["en", "sw"]))
    reached = [name for name in phi(model) if IN_TOWERS.search(name)]
    assert 0 < len(reached) < len(phi(model))

    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert phi(loaded) == phi(model)
    for name in phi(model):
        assert torch.equal(dict(loaded.named_parameters())[name], model.get_parameter(name))


def test_a_family_with_adapters_in_its_towers_gets_further_languages_of_the_same_kind(
    tmp_path: Path,
) -> None:
    """As versions saved it that put adapters there by default: the configuration names them all."""
    base = make("Gemma3")
    ends = ("out_proj", "o_proj", "fc2", "down_proj")
    whole = [
        re.escape(name)
        for name, _ in base.named_modules()
        if name.endswith(ends) and ".layers." in name
    ]
    config = BottleneckConfig(bottleneck_size=3, target_modules="|".join(whole))
    stirred(get_language_model(base, config, ["en"])).save_pretrained(tmp_path)

    model = LanguageAdapterModel.from_pretrained(tmp_path)
    model.add_language("sw")
    model.train_only("sw")
    assert len(model.language_parameters("sw")) == 4 * len(whole)


def test_the_adapters_are_those_of_the_text_model_alone() -> None:
    whole = make("Gemma3")
    text = transformers.Gemma3ForCausalLM(whole.config.text_config).eval()
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())

    models = [get_language_model(base, METHODS["bottleneck"], ["sw"]) for base in (whole, text)]
    stirred(models[0])
    of_text = [one for name, one in models[0].named_parameters() if not IN_TOWERS.search(name)]
    with torch.no_grad():
        for parameter, source in zip(models[1].parameters(), of_text, strict=True):
            parameter.copy_(source)

    targets = [model.model.peft_config["sw"].target_modules for model in models]
    assert targets[0] == targets[1]
    outputs = [[model(**WORDS, language="sw").logits] for model in models]
    assert same(*outputs)


def test_numbers_of_layers_are_those_of_the_text_model() -> None:
    config = transformers.Gemma3Config(
        **{**TOWERS["Gemma3"], "vision_config": {**IMAGE, "num_hidden_layers": 5}}
    )
    base = transformers.Gemma3ForConditionalGeneration(config)
    with pytest.raises(ConfigurationError, match=r"can have adapters: \[0, 1\]. Found \[4\]"):
        get_language_model(base, BottleneckConfig(layers_to_transform=[4]), ["en"])


@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_a_model_without_towers_is_text_as_a_whole(cell) -> None:
    model = cell.make()
    names = [name for name, _ in model.named_modules()]
    assert text_modules(model, names) == names


def test_a_tower_inside_of_an_encoder_leaves_the_decoder() -> None:
    class Config:
        def __init__(self, model_type: str, **parts: object) -> None:
            self.model_type = model_type
            vars(self).update(parts)

    kinds = {name: type(name, (Config,), {}) for name in ("Whole", "Encoder", "Text", "Image")}
    text, image = kinds["Text"]("t"), kinds["Image"]("i")
    encoder = kinds["Encoder"]("e", text_config=text, vision_config=image)
    model = nn.ModuleDict({"encoder": nn.ModuleDict(), "decoder": nn.Linear(1, 1)})
    model["encoder"].update({"tower": nn.Sequential(nn.Linear(1, 1)), "layer": nn.Linear(1, 1)})
    model.config, model["encoder"].config = kinds["Whole"]("w", encoder=encoder), encoder
    model["encoder"]["tower"].config = kinds["Image"]("i")  # a copy of it

    names = ["encoder.tower.0", "encoder.layer", "decoder"]
    assert text_modules(model, names) == names[1:]

    model["encoder"]["text"] = nn.Sequential(nn.Linear(1, 1))
    model["encoder"]["text"].config = kinds["Text"]("t")
    assert text_modules(model, [*names, "encoder.text.0"]) == ["decoder", "encoder.text.0"]

"""What `BottleneckConfig` accepts and refuses, and where it puts adapters in other models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model
from torch import nn
from transformers import BertConfig, BertModel

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.anatomy.projections import output_projections
from hf_meta_adapters.backends.bottleneck._layer import BottleneckLayer
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError
from tests.signed import sign
from tests.tiny import HIDDEN, tiny

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 64,
}


def places(model: nn.Module) -> list[str]:
    found = [name for name, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    return [name.removeprefix("base_model.model.") for name in found]


def adapt(name: str, **options: Any) -> list[str]:
    return places(
        get_peft_model(tiny(name).make(), BottleneckConfig(bottleneck_size=2, **options), "sw")
    )


def resolved(width: int, **options: Any) -> int | None:
    """The width of the adapter in a BERT of some width."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2 * width}
    base = BertModel(BertConfig(vocab_size=4, hidden_size=width, **sizes))
    model = get_peft_model(base, BottleneckConfig(**options), "sw")
    size = model.peft_config["sw"].bottleneck_size
    layers = [part for part in model.modules() if isinstance(part, BottleneckLayer)]
    assert {layer.bk_down["sw"].out_features for layer in layers} == {size}
    assert model.peft_config["sw"].reduction_factor is None
    return size


def test_the_defaults_are_those_of_the_paper() -> None:
    config = BottleneckConfig()
    assert (config.after_attention, config.after_feed_forward) == (True, True)
    assert config.peft_type == "BOTTLENECK"
    assert resolved(768) == 128


@pytest.mark.parametrize(
    ("width", "options", "size"),
    [
        (384, {}, 64),
        (64, {}, 10),
        (4, {}, 1),
        (64, {"reduction_factor": 16}, 4),
        (64, {"reduction_factor": 2.5}, 25),
        (64, {"bottleneck_size": 128}, 128),
    ],
)
def test_the_width_follows_that_of_the_model(
    width: int, options: dict[str, Any], size: int
) -> None:
    assert resolved(width, **options) == size


@pytest.mark.parametrize("name", ["gpt2", "llama", "mt5", "distilbert", "whisper", "bloom"])
def test_every_family_names_its_width_differently(name: str) -> None:
    model = get_language_model(tiny(name).make(), BottleneckConfig(), ["en", "sw"])
    for part in model.modules():
        if isinstance(part, BottleneckLayer):
            sizes = {down.out_features for down in part.bk_down.values()}
            assert (sizes, part.out_features) == ({HIDDEN // 6}, HIDDEN)


def test_a_family_records_the_width(tmp_path: Path) -> None:
    """A saved adapter is as wide as it is, whatever the default of a later version."""
    config = BottleneckConfig(reduction_factor=4)
    model = get_language_model(tiny("bert").make(), config, ["en", "sw"])
    model.add_language("te")
    model.save_pretrained(tmp_path)
    assert (config.bottleneck_size, config.reduction_factor) == (None, 4)

    for language in ("en", "sw", "te"):
        path = tmp_path / language / "adapter_config.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert (saved["bottleneck_size"], saved["reduction_factor"]) == (4, None)

        # as an earlier version wrote it
        del saved["reduction_factor"]
        path.write_text(json.dumps(saved), encoding="utf-8")
    sign(tmp_path)
    assert LanguageAdapterModel.from_pretrained(tmp_path).languages == ("en", "sw", "te")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bottleneck_size": 0}, "`bottleneck_size` must be a positive integer. Found 0"),
        ({"bottleneck_size": True}, "Found True"),
        ({"bottleneck_size": 8, "reduction_factor": 6}, "Found 8 and 6. Leave one of them out"),
        ({"reduction_factor": 0.5}, "`reduction_factor` must be a number of at least 1. Found 0.5"),
        ({"reduction_factor": "6"}, "at least 1. Found '6'"),
        ({"reduction_factor": float("nan")}, "at least 1. Found nan"),
        ({"bottleneck_size": 8.0}, r"Found 8\.0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\). Found 1\.0"),
        ({"dropout": -0.1}, r"Found -0\.1"),
        ({"bottleneck_size": 10**9}, "must be at most 1,048,576. Found 1000000000"),
        # what a file may hold
        ({"bottleneck_size": "8"}, "must be a positive integer. Found '8'"),
        ({"bottleneck_size": [8] * 999}, r"must be a positive integer. Found \[8, 8, 8"),
        ({"dropout": "0.1"}, r"`dropout` must be in \[0, 1\). Found '0.1'"),
        ({"dropout": None}, "Found None"),
        ({"dropout": float("nan")}, "Found nan"),
        ({"non_linearity": ["relu"]}, r"Found \['relu'\]. Set it for example to 'relu'"),
        ({"after_attention": "no"}, "`after_attention` must be true or false. Found 'no'"),
        ({"init_weights": None}, "`init_weights` must be true or false. Found None"),
        ({"target_modules": 5}, "`target_modules` must be names .* Found 5 of type `int`"),
        ({"target_modules": ["a", {}]}, r"`target_modules` must be names .* Found \['a', {}\]"),
        ({"modules_to_save": "cls"}, "`modules_to_save` must be a list of names .* Found 'cls'"),
        ({"layers_to_transform": "all"}, "`layers_to_transform` must be numbers .* Found 'all'"),
        ({"layers_to_transform": [0, True]}, r"must be numbers of layers. Found \[0, True\]"),
        ({"non_linearity": "reluu"}, "Found 'reluu'. Set it for example to 'relu"),
        (
            {"after_attention": False, "after_feed_forward": False},
            "`after_attention` or `after_feed_forward` must",
        ),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        BottleneckConfig(**options)


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"after_feed_forward": False}, "attention.output.dense"),
        ({"after_attention": False}, "output.dense"),
    ],
)
def test_one_of_the_two_places_can_be_left_out(options: dict[str, bool], end: str) -> None:
    assert adapt("bert", **options) == [f"bert.encoder.layer.{layer}.{end}" for layer in (0, 1)]


@pytest.mark.parametrize("layers", [1, [1]])
def test_adapters_can_be_kept_to_some_layers(layers: Any) -> None:
    ends = ("attention.output.dense", "output.dense")
    assert adapt("bert", layers_to_transform=layers) == [
        f"bert.encoder.layer.1.{end}" for end in ends
    ]
    assert len(adapt("mt5", layers_to_transform=layers)) == 5
    body = tiny("gpt2").make().transformer
    config = BottleneckConfig(bottleneck_size=2, layers_to_transform=layers)
    assert places(get_peft_model(body, config, "sw")) == ["h.1.attn.c_proj", "h.1.mlp.c_proj"]


def test_a_layer_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"can have adapters: \[0, 1\]. Found \[2\]"):
        adapt("bert", layers_to_transform=[1, 2])


def test_the_activation_can_be_named_or_follow_the_model() -> None:
    for name, expected in (("relu", nn.ReLU), ("model", nn.SiLU)):
        config = BottleneckConfig(bottleneck_size=2, non_linearity=name)
        model = get_peft_model(tiny("llama").make(), config, "sw")
        activations = [
            m.bk_activation["sw"] for m in model.modules() if isinstance(m, BottleneckLayer)
        ]
        assert len(activations) == 4
        x = torch.linspace(-2, 2, 9)
        assert all(torch.equal(activation(x), expected()(x)) for activation in activations)


@pytest.mark.parametrize("targets", [["mlp.up_proj"], {"mlp.up_proj"}, r".*\.mlp\.up_proj"])
def test_the_user_can_say_where(targets: Any) -> None:
    assert adapt("llama", target_modules=targets) == [
        f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1)
    ]


@pytest.mark.parametrize(
    ("targets", "matched"),
    [(["no_such"], "nothing"), (["input_layernorm"], "model.layers.0.input_layernorm")],
)
def test_targets_must_be_linear_layers(targets: list[str], matched: str) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        adapt("llama", target_modules=targets)
    assert f"{targets!r} matches {matched}" in str(error.value)
    assert "'model.layers.*.self_attn.o_proj'" in str(error.value)


@pytest.mark.parametrize("name", ["to", "pop", "0", "wo"])
def test_a_name_that_peft_would_mistake_is_refused(name: str) -> None:
    """A language `wo` (Wolof) in a T5 would lose, on saving, every other language's adapter behind
    a module `wo`.
    """
    model = tiny("mt5").make()
    before = [module for module, _ in model.named_modules()]
    with pytest.raises(
        ConfigurationError, match=f"Found '{name}'.*Call it for example \"language_{name}\""
    ):
        get_peft_model(model, BottleneckConfig(bottleneck_size=2), name)
    assert [module for module, _ in model.named_modules()] == before


def test_unknown_adapters_for_rows_are_named() -> None:
    cell = tiny("bert")
    model = get_peft_model(cell.make(), BottleneckConfig(bottleneck_size=2), "sw")
    for names in (["sw", "xx"], "sw"):
        with pytest.raises(
            ConfigurationError, match=r"must be a list whose entries are in \['sw'\]"
        ):
            model(**cell.batch(), adapter_names=names)
    model(**cell.batch(), adapter_names=["sw", "__base__"])


# layers in numbered lists for each kind of sublayer: `attentions.0`, `ffns.0`
_XLM = {
    "emb_dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}

OTHERS = {
    "XLMConfig": (_XLM, ["out_lin", "lin2"], 4),
    "FlaubertConfig": (_XLM, ["out_lin", "lin2"], 4),
    "AlbertConfig": (SIZES | {"embedding_size": 8}, ["attention.dense", "ffn_output"], 2),
    "OPTConfig": (
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 16,
            "vocab_size": 64,
            "word_embed_proj_dim": 16,
        },
        ["self_attn.out_proj", "fc2"],
        4,
    ),
    "GPTNeoXConfig": (SIZES, ["attention.dense", "mlp.dense_4h_to_h"], 4),
    "GPTJConfig": (
        {
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "rotary_dim": 4,
            "vocab_size": 64,
            "n_positions": 16,
        },
        ["attn.out_proj", "mlp.fc_out"],
        4,
    ),
    "FalconConfig": (
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64},
        ["self_attention.dense", "mlp.dense_4h_to_h"],
        4,
    ),
    "DeepseekV3Config": (
        SIZES
        | {
            "first_k_dense_replace": 2,
            "q_lora_rank": 8,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_key_value_heads": 2,
        },
        ["self_attn.o_proj", "mlp.down_proj"],
        4,
    ),
    "Wav2Vec2Config": (
        SIZES
        | {
            "conv_dim": (8,),
            "conv_stride": (2,),
            "conv_kernel": (2,),
            "num_feat_extract_layers": 1,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
        ["attention.out_proj", "feed_forward.output_dense"],
        4,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_places_in_models_outside_the_bank(name: str) -> None:
    sizes, ends, number = OTHERS[name]
    found = output_projections(
        transformers.AutoModel.from_config(getattr(transformers, name)(**sizes))
    )
    assert len(found) == number
    assert {re.split(r"\d+\.", place)[-1] for place in found} == set(ends)


MIXTURES = {
    "MixtralConfig": SIZES | {"num_key_value_heads": 1, "num_local_experts": 16},
    "DeepseekV3Config": OTHERS["DeepseekV3Config"][0]
    | {
        "first_k_dense_replace": 0,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
    },
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_is_refused_by_name_until_its_feed_forwards_are_left_out(
    name: str,
) -> None:
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**MIXTURES[name]))
    with pytest.raises(UnsupportedModelError) as error:
        get_peft_model(model, BottleneckConfig(bottleneck_size=2), "sw")
    assert f"Found no feed-forward next to layers.*.self_attn in `{type(model).__name__}`" in str(
        error.value
    )
    assert "'layers.*.self_attn.o_proj'" in str(error.value)
    model = get_peft_model(
        model, BottleneckConfig(bottleneck_size=2, after_feed_forward=False), "sw"
    )
    assert places(model) == [f"layers.{layer}.self_attn.o_proj" for layer in (0, 1)]


def test_attention_that_never_calls_its_projection_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(
        UnsupportedModelError,
        match="Found no attention in a numbered layer in `TransformerEncoder`",
    ):
        output_projections(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))

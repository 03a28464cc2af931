"""`BottleneckConfig` on every family and every head of the bank, through plain PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from hf_meta_adapters import BottleneckConfig
from hf_meta_adapters.backends.bottleneck._layer import BottleneckLayer
from hf_meta_adapters.errors import ConfigurationError
from tests.tiny import HIDDEN, MODELS, PRETRAINING, TinyModel, tiny

SIZE = 4
_BERT = {"layer.*.attention.output.dense", "layer.*.output.dense"}
_LLAMA = {"layers.*.self_attn.o_proj", "layers.*.mlp.down_proj"}
_BART = {
    *(f"encoder.layers.*.{end}" for end in ("self_attn.out_proj", "fc2")),
    *(f"decoder.layers.*.{end}" for end in ("self_attn.out_proj", "encoder_attn.out_proj", "fc2")),
}
_T5_ENCODER = {
    "encoder.block.*.layer.0.SelfAttention.o",
    "encoder.block.*.layer.1.DenseReluDense.wo",
}
_T5_DECODER = {
    "decoder.block.*.layer.0.SelfAttention.o",
    "decoder.block.*.layer.1.EncDecAttention.o",
    "decoder.block.*.layer.2.DenseReluDense.wo",
}
PLACES = {
    **dict.fromkeys(("bert", "roberta", "xlm-r", "deberta-v2", "xmod"), _BERT),
    "distilbert": {"layer.*.attention.out_lin", "layer.*.ffn.lin2"},
    "modernbert": {"layers.*.attn.Wo", "layers.*.mlp.Wo"},
    "gpt2": {"h.*.attn.c_proj", "h.*.mlp.c_proj"},
    "bloom": {"h.*.self_attention.dense", "h.*.mlp.dense_4h_to_h"},
    **dict.fromkeys(("llama", "qwen3", "gemma3", "mistral"), _LLAMA),
    "mt5": _T5_ENCODER | _T5_DECODER,
    **dict.fromkeys(("mbart", "m2m-100", "whisper"), _BART),
}


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = {
    **dict.fromkeys(("gpt2", "gemma3", "mt5"), _tanh_gelu),
    **dict.fromkeys(("llama", "qwen3", "mistral"), F.silu),
    "m2m-100": F.relu,
}


def adapted(cell: TinyModel, *languages: str, **options: Any) -> PeftModel:
    """A model with adapters that do something, the first of them active."""
    model = cell.make(options.pop("dtype", torch.float32))
    torch.manual_seed(1)
    for language in languages:
        config = BottleneckConfig(bottleneck_size=SIZE, init_weights=False, **options)
        if isinstance(model, PeftModel):
            model.add_adapter(language, config)
        else:
            model = get_peft_model(model, config, language)
    return model.eval()


def outputs(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return [value for value in model(**batch).values() if isinstance(value, Tensor)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def layers(model: nn.Module) -> dict[str, BottleneckLayer]:
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BottleneckLayer)
    }
    return {name.removeprefix("base_model.model."): layer for name, layer in found.items()}


def places(cell: TinyModel) -> set[str]:
    expected = _T5_ENCODER if str(cell) == "mt5-token_classification" else PLACES[cell.name]
    layers_of = [pattern.split("*", 1) for pattern in expected]
    return {f"{start}{number}{end}" for start, end in layers_of for number in (0, 1)}


@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_a_fresh_adapter_is_the_identity_and_stands_where_it_should(cell: TinyModel) -> None:
    batch = cell.batch()
    before = outputs(cell.make(), batch)
    model = get_peft_model(cell.make(), BottleneckConfig(bottleneck_size=SIZE), "sw").eval()
    assert same(outputs(model, batch), before)

    found, expected = set(layers(model)), places(cell)
    assert len(found) == len(expected)
    assert all(any(name == end or name.endswith(f".{end}") for name in found) for end in expected)
    each = 2 * HIDDEN * SIZE + HIDDEN + SIZE
    assert model.get_nb_trainable_parameters()[0] == len(expected) * each


@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_switching_is_exact_and_only_the_active_adapter_has_a_gradient(cell: TinyModel) -> None:
    batch, model = cell.batch(), adapted(cell, "te", "da")
    base, te = outputs(cell.make(), batch), outputs(model, batch)
    model.set_adapter("da")
    da = outputs(model, batch)
    assert not same(te, base)
    assert not same(te, da)
    with model.disable_adapter():
        assert same(outputs(model, batch), base)
    model.set_adapter("te")
    assert same(outputs(model, batch), te)

    model(**batch).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    own = {name for name in gradients if ".te." in name}
    assert len(own) == 4 * len(places(cell))
    assert all(gradients[name].any() for name in own)
    assert all(gradient is None for name, gradient in gradients.items() if name not in own)


@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_a_saved_adapter_gives_the_same_numbers_when_loaded(
    cell: TinyModel, tmp_path: Path
) -> None:
    batch, model = cell.batch(), adapted(cell, "te", "da")
    expected = outputs(model, batch)
    model.save_pretrained(str(tmp_path), selected_adapters=["te"])
    folder = tmp_path / "te"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["bottleneck_size"], config["non_linearity"]) == (
        "BOTTLENECK",
        SIZE,
        "model",
    )

    loaded = PeftModel.from_pretrained(cell.make(), str(folder))
    assert same(outputs(loaded, batch), expected)
    loaded.load_adapter(str(folder), adapter_name="zh-Hant")
    loaded.set_adapter("zh-Hant")
    assert same(outputs(loaded, batch), expected)


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_the_numbers_are_those_of_the_equation(cell: TinyModel) -> None:
    """h + up(act(down(h))) by hooks on the bare model, the activation looked up by hand."""
    model, batch = adapted(cell, "sw", dtype=torch.float64), cell.batch(dtype=torch.float64)
    activation, bare = ACTIVATIONS.get(cell.name, F.gelu), cell.make(torch.float64)

    def hook(layer: BottleneckLayer) -> Any:
        down, up = layer.bk_down["sw"], layer.bk_up["sw"]

        def add(module: nn.Module, inputs: Any, h: Tensor) -> Tensor:
            return h + activation(h @ down.weight.T + down.bias) @ up.weight.T + up.bias

        return add

    for name, layer in layers(model).items():
        bare.get_submodule(name).register_forward_hook(hook(layer))
    for value, expected in zip(outputs(model, batch), outputs(bare, batch), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_rows_of_a_batch_go_through_their_own_adapters(cell: TinyModel) -> None:
    batch, names = cell.batch(rows=4, dtype=torch.float64), ["te", "__base__", "da", "te"]
    del batch["labels"]
    if cell.make().config.is_encoder_decoder:
        batch["decoder_input_ids"] = tiny("bert").batch(rows=4)["input_ids"]
    model = adapted(cell, "te", "da", dtype=torch.float64)
    mixed = outputs(model, {**batch, "adapter_names": names})
    for row, name in enumerate(names):
        alone = outputs(
            model,
            {key: value[row : row + 1] for key, value in batch.items()} | {"adapter_names": [name]},
        )
        if name == "__base__":
            assert same(
                alone,
                outputs(
                    cell.make(torch.float64), {key: v[row : row + 1] for key, v in batch.items()}
                ),
            )
        else:
            model.set_adapter(name)
            assert same(
                alone, outputs(model, {key: value[row : row + 1] for key, value in batch.items()})
            )
        for together, single in zip(mixed, alone, strict=True):
            torch.testing.assert_close(together[row : row + 1], single, rtol=1e-5, atol=1e-6)


LANGUAGES = ("te", "da", "in", "pt", "li", "zh-Hant", "bo", "or", "lo")


@pytest.mark.parametrize("name", ["xlm-r", "mt5", "gpt2"])
def test_training_one_language_leaves_the_others_bitwise_alone(name: str) -> None:
    cell = tiny(name)
    model = adapted(cell, *LANGUAGES)
    for language in LANGUAGES:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.set_adapter(language)
        model.train()(**cell.batch()).loss.backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.optim.SGD(trained, lr=0.1).step()
        model.zero_grad()
        moved = {
            key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
        }
        assert moved == {key for key in before if key.split(".")[-2] == language}


def test_adapters_can_be_deleted_and_unloaded() -> None:
    cell = tiny("llama")
    batch, model = cell.batch(), adapted(cell, "te", "da")
    te = outputs(model, batch)
    model.delete_adapter("da")
    assert same(outputs(model, batch), te)
    assert not any(".da." in name for name in model.state_dict())
    assert same(outputs(model.unload(), batch), outputs(cell.make(), batch))


def test_an_adapter_loads_without_a_copy_in_memory(tmp_path: Path) -> None:
    cell = tiny("mbart")
    model = adapted(cell, "sw")
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(cell.make(), str(tmp_path / "sw"), low_cpu_mem_usage=True)
    assert same(outputs(loaded, cell.batch()), outputs(model, cell.batch()))


def test_a_classifier_is_saved_with_the_adapter(tmp_path: Path) -> None:
    cell = tiny("bert", "sequence_classification")
    model = adapted(cell, "sw", modules_to_save=["classifier"])
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["sw"].weight.add_(1)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(cell.make(), str(tmp_path / "sw"))
    assert same(outputs(loaded, cell.batch()), outputs(model, cell.batch()))
    assert not same(outputs(loaded, cell.batch()), outputs(adapted(cell, "sw"), cell.batch()))


def test_beams_of_a_search_keep_the_adapter_of_their_row() -> None:
    cell = tiny("mbart")
    model, batch = adapted(cell, "te", "da"), cell.batch(rows=2)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    search = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    both = model.generate(**inputs, adapter_names=["te", "da"], **search)
    for row, name in enumerate(["te", "da"]):
        model.set_adapter(name)
        alone = model.generate(
            **{key: value[row : row + 1] for key, value in inputs.items()}, **search
        )
        assert torch.equal(both[row : row + 1], alone)


@pytest.mark.parametrize("name", ["bert", "llama", "mt5"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    cell = tiny(name)
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = adapted(cell, "sw").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        runs: list[str] = []
        for place, layer in layers(model).items():
            layer.register_forward_hook(lambda *_, place=place, runs=runs: runs.append(place))
        torch.manual_seed(3)
        model(**cell.batch(), **({} if name == "bert" else {"use_cache": False})).loss.backward()
        gradients.append(
            [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        )
        calls.append(len(runs))
    assert calls[1] > calls[0]
    assert same(*gradients)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_routing_by_row_trains_but_not_with_gradient_checkpointing() -> None:
    cell = tiny("bert")
    model = adapted(cell, "te", "da").train()
    model.base_model.set_requires_grad(["te", "da"])
    model(**cell.batch(rows=2), adapter_names=["te", "da"]).loss.backward()
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ConfigurationError, match="must come without gradient checkpointing"):
        model(**cell.batch(rows=2), adapter_names=["te", "da"])


@pytest.mark.parametrize("name", ["bert", "gpt2", "mt5"])
def test_half_precision_keeps_the_type_of_the_model_and_the_identity(name: str) -> None:
    cell = tiny(name)
    batch, base = cell.batch(), cell.make(torch.bfloat16)
    model = get_peft_model(
        cell.make(torch.bfloat16), BottleneckConfig(bottleneck_size=SIZE), "sw"
    ).eval()
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {
        torch.float32
    }
    assert same(outputs(model, batch), outputs(base, batch))

    model = get_peft_model(cell.make(), BottleneckConfig(bottleneck_size=SIZE), "sw").eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert same(outputs(model, batch), outputs(cell.make(), batch))
        model(**batch).loss.backward()
    assert all(layer.bk_up["sw"].weight.grad.any() for layer in layers(model).values())

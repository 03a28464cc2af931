"""Gates per attention head: which weights make up a head, and whether planted heads are found."""

import warnings
from functools import partial

import pytest
import torch
import transformers
from torch import nn

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.anatomy.attention_heads import (
    attention_of_parameter,
    head_of_outputs,
    is_transposed,
)
from hf_meta_adapters.anatomy.linear_layers import linear_layers
from hf_meta_adapters.anatomy.projections import attention_outputs
from hf_meta_adapters.diagnostics import learn_language_masks, mask_overlap
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import lora
from tests.tiny import PRETRAINING, tiny
from tests.unit.diagnostics.models import PlantedHeads


def heads(kept):
    return [letter == "1" for letter in kept]


def agrees(found, truth):
    """F1 of the kept weights, and of the pruned ones."""
    pairs = [(found[name].expand(part.shape), part) for name, part in truth.items()]
    pairs = [pairs, [(~mask, ~part) for mask, part in pairs]]
    return [
        2 * sum(int((a & b).sum()) for a, b in both) / sum(int(a.sum() + b.sum()) for a, b in both)
        for both in pairs
    ]


@pytest.mark.parametrize(("groups", "kept"), [(8, ("11011110", "10111011")), (4, ("1011", "1110"))])
def test_planted_heads_are_found(groups, kept):
    torch.manual_seed(0)
    model = PlantedHeads(8, groups)
    truth = model.plant((heads(kept[0]), heads(kept[1])))
    sparsity = "".join(kept).count("0") / (2 * groups)
    masks = learn_language_masks(
        model,
        {"en": model.batches(truth, 0)},
        sparsity=sparsity,
        granularity="head",
        seeds=(0,),
        steps=80,
    )
    assert masks.mask("en", 0).keys() == truth.keys()
    assert min(agrees(masks.mask("en", 0), truth)) >= 0.95
    assert masks.sparsity("en", 0) == pytest.approx(sparsity)


def test_heads_differ_between_languages_only_where_a_difference_was_planted(tmp_path):
    torch.manual_seed(0)
    model = PlantedHeads()
    same = model.plant((heads("11011110"), heads("10111011")))
    other = model.plant((heads("11110101"), heads("01111101")))
    text = {
        "en": model.batches(same, 0),
        "fr": model.batches(same, 1),
        "sw": model.batches(other, 2),
    }
    masks = learn_language_masks(
        model, text, sparsity=0.25, granularity="head", seeds=(0, 1), steps=80
    )
    overlap = mask_overlap(masks)
    assert float(overlap.matrix[0, 1]) == overlap.between_seeds == 1
    assert float(overlap.matrix[0, 2]) == pytest.approx(
        8 / 16
    )  # each prunes four heads that the other keeps
    masks.save(tmp_path / "masks.safetensors")
    found = LanguageMasks.load(tmp_path / "masks.safetensors")
    assert found.to_dict() == masks.to_dict()
    assert mask_overlap(found).to_dict() == overlap.to_dict()
    assert "one gate per head" in found.to_markdown()


_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64}
_GPT = {"n_embd": 16, "n_layer": 1, "n_head": 4, "n_inner": 32, "n_positions": 32, "vocab_size": 64}
ORDERS = {
    "grouped": ("LlamaConfig", {**_SIZES, "intermediate_size": 32, "num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoXConfig", {**_SIZES, "intermediate_size": 32}),
    "mpt": (
        "MptConfig",
        {"d_model": 16, "n_heads": 4, "n_layers": 1, "vocab_size": 64, "max_seq_len": 32},
    ),
    "falcon": ("FalconConfig", {**_SIZES, "multi_query": False}),
    "falcon, one key": ("FalconConfig", {**_SIZES, "multi_query": True}),
    "falcon, grouped": (
        "FalconConfig",
        {**_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "gpt_bigcode": ("GPTBigCodeConfig", {**_GPT, "multi_query": False}),
    "gpt_bigcode, one key": ("GPTBigCodeConfig", {**_GPT, "multi_query": True}),
}
"""Models that put the outputs of query, key and value in an order of their own."""


def made(order):
    name, sizes = ORDERS[order]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`torch.jit", DeprecationWarning
        )  # on import, by transformers 4
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes))
    return model.eval(), {"input_ids": torch.arange(3, 11).reshape(1, 8)}


@torch.no_grad()
def silent_without(model, batch, weights, output):
    """Which inputs of an output projection are zero once the weights are what they are here."""
    seen = []
    handle = model.get_submodule(output).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    torch.func.functional_call(model, weights, (), batch, tie_weights=False)
    handle.remove()
    return (seen[0] == 0).flatten(0, -2).all(0)


@pytest.mark.parametrize("case", [*PRETRAINING, *ORDERS], ids=str)
def test_a_head_without_its_weights_hands_nothing_on(case):
    torch.manual_seed(0)
    model, batch = made(case) if isinstance(case, str) else (case.make(), case.batch())
    outputs = attention_outputs(linear_layers(model))
    projections = {}
    for name, weight in model.named_parameters():
        if attention_of_parameter(name) is not None:
            projections.setdefault(attention_of_parameter(name), {})[name] = weight.detach()
    assert len(projections) == len(outputs)
    for (attention, weights), output in zip(projections.items(), outputs.values(), strict=True):
        assert output.startswith(attention.removesuffix(".self"))
        numbers = {name: head_of_outputs(model, name, weight) for name, weight in weights.items()}
        count = 1 + max(int(one.max()) for one in numbers.values())
        for head in range(count):
            pruned = {}
            for name, weight in weights.items():
                kept = (numbers[name] != head).to(weight.dtype)
                rows = weight.dim() == 1 or is_transposed(model, name)
                pruned[name] = weight * (kept if rows else kept.unsqueeze(1))
            silent = silent_without(model, batch, pruned, output)
            assert silent.reshape(count, -1).all(1).tolist() == [
                other == head for other in range(count)
            ]
            assert silent.float().mean() == 1 / count


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "mt5"])
def test_gates_of_heads_leave_the_model_alone(family):
    cell = tiny(family)
    model = cell.make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    masks = learn_language_masks(
        model, {"en": cell.batch()}, sparsity=0.5, granularity="head", seeds=(0,), steps=2
    )
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(attention_of_parameter(name) is not None for name in masks.shapes)
    for name, mask in masks.mask("en", 0).items():
        assert (mask & torch.ones(masks.shapes[name], dtype=torch.bool)).shape == before[name].shape
    assert masks.sparsity("en", 0) == pytest.approx(0.5)


@pytest.mark.parametrize("method", [lora, lambda base: BottleneckConfig(bottleneck_size=2)])
def test_heads_of_a_model_with_adapters_are_those_of_its_base(method):
    cell = tiny("bert")
    base = cell.make()
    names = [
        name
        for name, p in base.named_parameters()
        if attention_of_parameter(name) is not None and p.dim() == 2
    ]
    model = get_language_model(base, method(base), ["en", "sw"])
    masks = learn_language_masks(
        model, {"en": cell.batch()}, sparsity=0.5, granularity="head", seeds=(0,), steps=1
    )
    assert len(masks.shapes) == len(names)


def test_biases_follow_their_weights_where_they_are_named():
    cell = tiny("gpt2")
    masks = learn_language_masks(
        cell.make(),
        {"en": cell.batch()},
        sparsity=0.5,
        granularity="head",
        seeds=(0,),
        steps=1,
        parameters="c_attn",
    )
    mask = masks.mask("en", 0)
    for layer in range(2):
        name = f"transformer.h.{layer}.attn.c_attn"
        assert mask[f"{name}.weight"].shape == (1, 48)
        assert torch.equal(mask[f"{name}.weight"][0], mask[f"{name}.bias"])


def test_models_whose_heads_are_unknown_are_refused():
    learn = partial(learn_language_masks, sparsity=0.5, granularity="head", seeds=(0,), steps=1)
    model = PlantedHeads()
    text = {"en": model.batches({}, 0, 1)}
    attention = model.layers[1]["attention"]
    for name in ("num_heads", "num_key_value_heads"):
        delattr(attention, name)
    with pytest.raises(
        ConfigurationError, match=r"'num_heads'.*`layers.1.attention`.*`_Attention`.*neuron"
    ):
        learn(model, text)
    attention.num_heads = 7
    with pytest.raises(
        ConfigurationError, match=r"32 outputs of `layers.1.attention.q_proj.weight`, for 7 heads"
    ):
        learn(model, text)
    with pytest.raises(
        ConfigurationError, match=r"queries, keys and values.*'layers.0.attention.o_proj.weight'"
    ):
        learn(model, text, parameters="o_proj")
    attention.num_heads = 8
    attention.v_proj = nn.Linear(32, 16, bias=False)
    with pytest.raises(ConfigurationError, match="16 outputs"):
        learn(model, text)

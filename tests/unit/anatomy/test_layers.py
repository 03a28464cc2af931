import pytest

from hf_meta_adapters.anatomy.layers import layer_index, layer_of, parameter_kind
from tests.tiny import PRETRAINING

EXPECTED = {
    "bert.encoder.layer.3.attention.self.query.weight": ("encoder.layer.3", "attention"),
    "bert.encoder.layer.3.attention.output.dense.weight": ("encoder.layer.3", "attention"),
    "bert.encoder.layer.3.attention.output.LayerNorm.weight": ("encoder.layer.3", "layer_norm"),
    "bert.encoder.layer.11.output.dense.bias": ("encoder.layer.11", "feed_forward"),
    "base_model.model.bert.encoder.layer.3.output.dense.base_layer.weight": (
        "encoder.layer.3",
        "feed_forward",
    ),
    "roberta.embeddings.word_embeddings.weight": ("embeddings", "embeddings"),
    "roberta.embeddings.LayerNorm.bias": ("embeddings", "layer_norm"),
    "bert.pooler.dense.weight": ("other", "other"),
    "lm_head.dense.weight": ("other", "other"),
    "lm_head.decoder.weight": ("embeddings", "embeddings"),
    "model.layers.7.self_attn.q_proj.weight": ("layers.7", "attention"),
    "model.layers.7.mlp.down_proj.weight": ("layers.7", "feed_forward"),
    "model.layers.7.input_layernorm.weight": ("layers.7", "layer_norm"),
    "model.norm.weight": ("other", "layer_norm"),
    "transformer.h.0.attn.c_attn.weight": ("h.0", "attention"),
    "transformer.h.0.ln_1.weight": ("h.0", "layer_norm"),
    "transformer.h.0.mlp.c_fc.weight": ("h.0", "feed_forward"),
    "transformer.wpe.weight": ("embeddings", "embeddings"),
    "shared.weight": ("embeddings", "embeddings"),
    "encoder.block.2.layer.0.SelfAttention.q.weight": ("encoder.block.2", "attention"),
    "decoder.block.2.layer.1.EncDecAttention.k.weight": ("decoder.block.2", "attention"),
    "decoder.block.2.layer.2.DenseReluDense.wi_0.weight": ("decoder.block.2", "feed_forward"),
    "decoder.block.2.layer.2.layer_norm.weight": ("decoder.block.2", "layer_norm"),
    "model.decoder.layers.1.fc2.weight": ("decoder.layers.1", "feed_forward"),
    "0.weight": ("0", "other"),
    "classifier.weight": ("other", "other"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layer_and_kind(name):
    assert (layer_of(name), parameter_kind(name)) == EXPECTED[name]


@pytest.mark.parametrize("tiny_model", PRETRAINING, ids=str)
def test_every_parameter_of_a_layer_has_a_kind(tiny_model):
    names = [
        name
        for name, _ in tiny_model.make().named_parameters()
        if layer_index(layer_of(name)) is not None
    ]
    unknown = [name for name in names if parameter_kind(name) == "other" and "adapter" not in name]
    assert names
    assert unknown == []

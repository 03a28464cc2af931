from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_meta_adapters.anatomy.linear_layers import features_of, is_conv1d, linear_layers
from tests.tiny import tiny


def test_the_transposed_layer_of_gpt2_is_known_without_its_library():
    class Named(Conv1D):
        pass

    for module in (Conv1D(3, 2), Named(3, 2)):
        assert is_conv1d(module)
        assert features_of(module) == (2, 3)
    assert not is_conv1d(nn.Conv1d(2, 3, 1))
    assert features_of(nn.Conv1d(2, 3, 1)) is None


def test_every_projection_of_gpt2_is_linear():
    layers = linear_layers(tiny("gpt2").make())
    assert {name.rpartition(".")[2] for name in layers} == {"c_attn", "c_proj", "c_fc", "lm_head"}

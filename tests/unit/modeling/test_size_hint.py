"""The hint that the parameters of a language are many."""

import logging

import pytest
from peft import LoraConfig

from hf_meta_adapters import BottleneckConfig, get_language_model
from tests.tiny import tiny


@pytest.mark.parametrize("size", [1, 32])
@pytest.mark.parametrize("shared", ["all", LoraConfig(r=2, target_modules="all-linear")])
def test_a_large_adapter_is_named_with_its_share(size, shared, caplog):
    base = tiny("bert").make()
    count = sum(parameter.numel() for parameter in base.parameters())

    with caplog.at_level(logging.WARNING, "hf_meta_adapters"):
        config = BottleneckConfig(bottleneck_size=size)
        model = get_language_model(base, config, ["en", "sw"], shared=shared)

    own = sum(parameter.numel() for parameter in model.language_parameters("sw").values())
    said = [record.getMessage() for record in caplog.records]
    assert bool(said) == (own >= 0.2 * count) == (size == 32)
    if said:
        assert len(said) == 1
        assert f"has {own:,} parameters of its own" in said[0]
        assert "`BottleneckConfig(reduction_factor=16)`" in said[0]

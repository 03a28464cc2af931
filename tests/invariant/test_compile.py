"""Compiled layers: the same training, and estimators that need second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import BertConfig, PreTrainedModel

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._compile import compile_layers, room_for_languages
from tests.training import make_model

from .test_training import PLAIN, assert_close, run, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    ),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    limit = torch._dynamo.config.recompile_limit
    yield
    assert torch._dynamo.config.recompile_limit == limit  # it is raised for a run, and no longer
    torch._dynamo.reset()


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_the_trainer_compiles_and_learns_the_same(tmp_path, monkeypatch, preset):
    found = []
    for name in ("eager", "compiled"):
        model = make_model(dtype=torch.float64)
        given = (
            {"torch_compile": True, "torch_compile_backend": "aot_eager"}
            if name == "compiled"
            else {}
        )
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
        run(
            tmp_path / name,
            model,
            max_steps=2,
            preset=preset,
            fidelity_check_steps=1,
            **PLAIN,
            **given,
        )
        found.append({key: value.detach().clone() for key, value in tensors(model).items()})
        assert bool(counters["stats"]["unique_graphs"]) == (name == "compiled")
    assert_close(found[1], found[0], 1e-6)


def test_there_is_room_for_every_language():
    model = make_model([f"l{number}" for number in range(9)])
    limit = torch._dynamo.config.recompile_limit
    with room_for_languages(model):
        assert torch._dynamo.config.recompile_limit == 72 > limit
    assert torch._dynamo.config.recompile_limit == limit


def test_a_model_without_layers_is_refused():
    class Plain(PreTrainedModel):
        config_class = BertConfig

        def __init__(self, config):
            super().__init__(config)
            self.first = torch.nn.Linear(4, 4)
            self.post_init()

        def forward(self, inputs):
            return self.first(inputs)

    model = get_language_model(
        Plain(BertConfig()), BottleneckConfig(target_modules=["first"]), ["en"]
    )
    with pytest.raises(
        ConfigurationError,
        match=r"made of layers as transformers builds them. Found none in `Plain`",
    ):
        compile_layers(model)

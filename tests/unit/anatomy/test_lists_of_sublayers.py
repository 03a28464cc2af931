"""XLM, the architecture of the paper's own code: a numbered list for each kind of sublayer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import XLMConfig, XLMModel, XLMWithLMHeadModel

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    ModuleCopyConfig,
    get_language_model,
)
from hf_meta_adapters.anatomy.modules import MODULE_KINDS, find_modules
from hf_meta_adapters.anatomy.projections import layer_number, output_projections
from tests.adapted import outputs, same, stirred

SIZES: dict[str, Any] = {
    "emb_dim": 16,
    "n_layers": 3,
    "n_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "pad_index": 0,
}
BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": torch.tensor([[8, 7, 6, 5]])}
ATTENTIONS = [f"transformer.attentions.{n}" for n in range(3)]
FEED_FORWARDS = [f"transformer.ffns.{n}" for n in range(3)]
NORMS = [
    "transformer.layer_norm_emb",
    *(f"transformer.layer_norm{kind}.{n}" for kind in (1, 2) for n in range(3)),
]
KINDS = dict(zip(MODULE_KINDS, (NORMS, FEED_FORWARDS, ATTENTIONS), strict=True))


def make(kind: Any = XLMWithLMHeadModel) -> Any:
    torch.manual_seed(0)
    return kind(XLMConfig(**SIZES)).eval()


class Twin(nn.Module):
    """A model whose linear layers lie in lists of their own, one for each."""

    def __init__(self) -> None:
        super().__init__()
        self.attns = nn.ModuleList(
            nn.ModuleDict({"query": nn.Linear(4, 4), "out": nn.Linear(4, 4)}) for _ in range(2)
        )
        self.fc1 = nn.ModuleList(nn.Linear(4, 8) for _ in range(2))
        self.fc2 = nn.ModuleList(nn.Linear(8, 4) for _ in range(2))


def test_the_output_projections_are_those_of_equal_number() -> None:
    attentions = [f"{name}.out_lin" for name in ATTENTIONS]
    forwards = [f"{name}.lin2" for name in FEED_FORWARDS]
    assert output_projections(make()) == attentions + forwards
    assert output_projections(make(), feed_forward=False) == attentions
    assert output_projections(make(), attention=False) == forwards
    assert output_projections(make(), layers=[2]) == [attentions[2], forwards[2]]
    assert [layer_number(name) for name in attentions + forwards] == [0, 1, 2] * 2
    start = "transformer."
    assert output_projections(make(XLMModel)) == [
        name.removeprefix(start) for name in attentions + forwards
    ]
    assert output_projections(Twin()) == ["attns.0.out", "attns.1.out", "fc2.0", "fc2.1"]


@pytest.mark.parametrize("kind", MODULE_KINDS)
def test_the_modules_of_a_kind_are_found(kind: str) -> None:
    assert find_modules(make(), kind) == KINDS[kind]


def test_a_feed_forward_of_lists_is_its_linear_layers() -> None:
    assert find_modules(Twin(), "feed_forward") == ["fc1.0", "fc2.0", "fc1.1", "fc2.1"]


@pytest.mark.parametrize(
    "config",
    [BottleneckConfig(bottleneck_size=4), *(ModuleCopyConfig(kind) for kind in MODULE_KINDS)],
    ids=["bottleneck", *MODULE_KINDS],
)
def test_languages_differ_learn_and_survive_a_file(config: PeftConfig, tmp_path: Path) -> None:
    bare = outputs(make(), BATCH)
    model = get_language_model(make(), config, ["en", "sw"]).eval()
    assert all(same(outputs(model, BATCH, language=key), bare) for key in ("en", "sw"))

    stirred(model)
    sw = outputs(model, BATCH, language="sw")
    assert not same(sw, outputs(model, BATCH, language="en"))

    model(**BATCH, language="sw").loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {*model.shared_parameters(), *model.language_parameters("sw")}

    model.save_pretrained(tmp_path)
    assert same(outputs(LanguageAdapterModel.from_pretrained(tmp_path), BATCH, language="sw"), sw)


def test_the_numbers_are_those_of_the_equation() -> None:
    config = BottleneckConfig(bottleneck_size=4, non_linearity="relu", init_weights=False)
    model = get_language_model(make(), config, ["sw"], shared="none").eval()
    phi = list(model.language_parameters("sw").values())
    assert len(phi) == 2 * 3 * 4

    weights = {
        name.split("transformer.")[1]: p for name, p in model.named_parameters() if "bk_" in name
    }

    def behind(place: str) -> Any:
        down, up = (
            [weights[f"{place}.bk_{part}.sw.{kind}"] for kind in ("weight", "bias")]
            for part in ("down", "up")
        )

        def hook(module: nn.Module, inputs: Any, h: Tensor) -> Tensor:
            return h + F.linear(F.relu(F.linear(h, *down)), *up)

        return hook

    plain = make()
    for name in output_projections(plain):
        plain.get_submodule(name).register_forward_hook(behind(name.removeprefix("transformer.")))
    assert same(outputs(model, BATCH, language="sw"), outputs(plain, BATCH))

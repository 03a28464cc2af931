"""A model is as large as its files: settings that ask for more are refused before it is made."""

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig
from torch import nn

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import ConfigurationError, HubError
from hf_meta_adapters.hub.limits import Amount, amount_in, at_most
from tests.adapted import adapted
from tests.signed import sign
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
CONFIG = "adapter_config.json"


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_files_hold_is_counted_from_their_headers(tmp_path: Path) -> None:
    model = adapted("bert", "lora")
    model.save_pretrained(tmp_path)
    tensors = model.language_parameters("en").values()
    held = amount_in([tmp_path / "en" / "adapter_model.safetensors"])
    assert held == Amount(len(tensors), sum(tensor.numel() for tensor in tensors))
    assert amount_in([tmp_path / "absent", tmp_path / "en" / CONFIG]) == Amount()


def test_parameters_are_counted_before_they_are_initialised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("initialised")

    monkeypatch.setattr(nn.init, "kaiming_uniform_", touched)
    with (
        pytest.raises(HubError, match=r"must fit its weights\. Found settings in .*file.* hold 1"),
        at_most(Amount(1, 9), Path("file")),
    ):
        nn.Linear(10**5, 10**4)


def test_counting_ends(tmp_path: Path) -> None:
    with pytest.raises(HubError), at_most(Amount(), tmp_path):
        nn.ModuleList(nn.LayerNorm(1) for _ in range(3000))
    nn.ModuleList(nn.LayerNorm(1) for _ in range(3000))


def test_copies_count_as_well(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.Linear(10**4, 10**4)
    with pytest.raises(HubError, match="ask for more than"), at_most(Amount(), tmp_path):
        nn.ModuleDict({"copy": module})


BASE: dict[str, dict[str, Any]] = {
    "a million layers": {"num_hidden_layers": 10**6},
    "a wide vocabulary": {"vocab_size": 10**8},
    "wide layers": {"intermediate_size": 10**8},
    "many positions": {"max_position_embeddings": 10**8},
    "a billion labels": {"num_labels": 10**9},
    "a million more labels": {"id2label": {str(n): "x" for n in range(10)}, "num_labels": 10**7},
}


@pytest.mark.parametrize("what", BASE)
def test_a_base_larger_than_its_weights_is_refused(what: str, tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path)
    change(tmp_path / "config.json", **BASE[what])
    began = time.monotonic()
    with pytest.raises(HubError, match=r"Found .*config|Found settings in|allocate memory"):
        load(tmp_path)
    assert time.monotonic() - began < 8


def bottleneck(base: Any) -> Any:
    return BottleneckConfig(bottleneck_size=3)


def prompt(base: Any) -> Any:
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)


ADAPTERS: list[tuple[str, Callable[[Any], Any] | str, dict[str, Any]]] = [
    ("bert", "lora", {"r": 10**9}),
    ("bert", "lora", {"rank_pattern": {"query": 10**9}}),
    ("bert", "lora", {"modules_to_save": ["bert"], "r": 10**6}),
    ("bert", bottleneck, {"bottleneck_size": 10**9}),
    ("llama", prompt, {"num_virtual_tokens": 10**9}),
    ("llama", prompt, {"token_dim": 10**8}),
]


@pytest.mark.parametrize(("cell", "method", "changes"), ADAPTERS)
def test_an_adapter_larger_than_its_weights_is_refused(
    cell: str, method: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = adapted(cell, method) if isinstance(method, str) else None
    if model is None:
        base = tiny(cell).make()
        model = get_language_model(base, method(base), ["en", "sw"])
    model.save_pretrained(tmp_path)
    for language in model.languages:
        change(tmp_path / language / CONFIG, **changes)
    sign(tmp_path)

    began = time.monotonic()
    tracemalloc.start()
    with pytest.raises(HubError, match=r"Found settings in|where 1,048,576 is the most|allocate"):
        load(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 8
    assert most < 2**28


def test_a_head_of_the_users_own_is_no_part_of_the_files(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path)
    from transformers import AutoModelForTokenClassification

    model = load(tmp_path, auto_class=AutoModelForTokenClassification, num_labels=50_000)
    assert model.config.num_labels == 50_000


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path)
    for name in (f"en/{CONFIG}", "model.safetensors", "language_adapters.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(HubError, match=rf"Found .*{Path(name).name}|Found none in"):
            load(tmp_path)


def test_an_adapter_beside_the_shared_weights_is_refused(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(HubError, match=rf"must have its adapters in .* Found .*{CONFIG}, which"):
        load(tmp_path)


def test_thousands_of_languages_are_refused_before_they_are_saved(tmp_path: Path) -> None:
    model = adapted("bert", None, languages=[f"l{number}" for number in range(3)])
    model._router.languages = [f"l{number}" for number in range(4001)]
    with pytest.raises(ConfigurationError, match=r"at most 4,000 languages. Found 4,001"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


FILES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("["),
    "deep": lambda path: path.write_text("[" * 99_999),
    "list": lambda path: path.write_text("[]"),
    "twice": lambda path: path.write_text('{"r": 2, "r": 3}'),
    "infinite": lambda path: change(path, lora_alpha=float("inf")),
    "type": lambda path: change(path, r="2"),
    "method": lambda path: change(path, peft_type=["LORA"]),
}


@pytest.mark.parametrize("what", FILES)
def test_a_single_adapter_is_refused_in_the_same_way(what: str, tmp_path: Path) -> None:
    model = adapted("bert", "lora")
    model.save_pretrained(tmp_path)
    FILES[what](tmp_path / "sw" / CONFIG)
    before = {name: tensor.clone() for name, tensor in model.language_parameters("en").items()}

    for attempt in (lambda: model.load_language("en", tmp_path / "sw"), lambda: load(tmp_path)):
        with pytest.raises(HubError, match=r"Found in .*sw"):
            attempt()
    with pytest.raises(HubError, match=r"Found in .*sw"):
        model.load_weights(tmp_path)
    after = model.language_parameters("en")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

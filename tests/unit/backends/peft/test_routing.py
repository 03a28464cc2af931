"""Rows of several languages with dropout: the same result in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peft.tuners.lora.layer as lora_layer
import pytest
import torch
from safetensors.torch import load_file

from tests.adapted import adapted, stirred
from tests.tiny import tiny

_TRAIN = """
import sys, torch
from safetensors.torch import save_file
from tests.adapted import adapted, stirred
from tests.tiny import tiny
keys = ["en", "sw", "te", "yo", "ha", "am"]
torch.manual_seed(0)
model = stirred(adapted("llama", "lora", keys)).train()
torch.manual_seed(1)
loss = model(**tiny("llama").batch(rows=6), language=keys).loss
loss.backward()
gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
save_file({"loss": loss.detach(), **gradients}, sys.argv[1])
"""


def test_the_hash_seed_of_a_process_changes_nothing(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-c", _TRAIN, str(path)],
            check=True,
            env=environment,
            cwd=Path(__file__).parents[4],
        )
        found.append(load_file(path))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 30
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_passes_in_several_threads_do_not_disturb_one_another() -> None:
    models = [stirred(adapted("llama", "lora")) for _ in range(2)]
    words = tiny("llama").batch()["input_ids"]
    alone = [model(input_ids=words, language=["en", "sw"]).logits for model in models]

    def repeat(model: Any) -> list[torch.Tensor]:
        return [model(input_ids=words, language=["en", "sw"]).logits for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(repeat, models), alone, strict=True):
            assert all(torch.equal(one, expected) for one in found)
    assert "set" not in vars(lora_layer)


@pytest.mark.parametrize("fails", [False, True])
def test_peft_is_left_as_it_was(fails: bool) -> None:
    model = stirred(adapted("llama", "lora"))
    batch = {"input_ids": tiny("llama").batch()["input_ids"]}
    if fails:
        batch["input_ids"][0, 0] = 999  # no such token
        with pytest.raises(IndexError):
            model(**batch, language=["en", "sw"])
    else:
        model(**batch, language=["en", "sw"])
    assert "set" not in vars(lora_layer)

"""Training on a GPU: every way to take a step, bitwise resumption, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_meta_adapters import LanguageAdapterModel
from tests.adapted import lora
from tests.devices import ON_DEVICES, repeatable
from tests.invariant.test_resume import assert_same_run
from tests.processes import LIMIT, environment, free_port
from tests.tiny import tiny
from tests.training import make_model, make_trainer, masking, moved, snapshot, texts

FAST = {"preset": "fast"}
WAYS: dict[str, dict[str, Any]] = {
    "fast": FAST,
    "fast, one pass": {**FAST, "languages_per_pass": 99, "adapter_update": "meta+train"},
    "fast, half the rows": {**FAST, "mixed_rows": 0.5},
    "fast, rows chosen": {**FAST, "mixed_rows": "auto", "max_steps": 4},
    "fast, passes chosen": {**FAST, "languages_per_pass": "auto", "max_steps": 6},
    "fast, checked": {**FAST, "fidelity_check_steps": 1},
    "adam": {**FAST, "inner_optimizer": "adam", "inner_learning_rate": None},
    "paper": {"preset": "paper"},
    "offload": {**FAST, "cpu_offload": True},
    "others": {"meta_languages": "others", "lookahead": "none"},
    "next": {"lookahead": "next"},
    "next, one pass": {"lookahead": "next", "languages_per_pass": 99},
    "next, some languages": {"lookahead": "next", "mixed_languages": 0.5},
    "next, half the rows": {"lookahead": "next", "mixed_rows": 0.5},
    "next, rows chosen": {"lookahead": "next", "mixed_rows": "auto", "max_steps": 4},
    "joint, one pass": {"adapter_update": "train", "languages_per_pass": 99},
    "projected": {**FAST, "shared_update": "project"},
    "surgery": {"adapter_update": "train", "shared_update": "pcgrad", "surgery_gradients": "keep"},
    "lagged surgery": {"adapter_update": "train", "shared_update": "upgrad"},
    "FAMO": {**FAST, "language_weights": "famo"},
    "alignment": {**FAST, "language_weights": "alignment"},
    "some languages": {**FAST, "languages_per_step": 2, "sampling_alpha": 0.3},
    "accumulated": {**FAST, "gradient_accumulation_steps": 2},
    "checkpointing": {**FAST, "gradient_checkpointing": True},
    "fused": {"lookahead": "next", "optim": "adamw_torch_fused"},
    "compiled": {**FAST, "torch_compile": True, "torch_compile_backend": "aot_eager"},
}
RESUMED = (
    "fast",
    "fast, one pass",
    "next",
    "next, one pass",
    "next, rows chosen",
    "surgery",
    "lagged surgery",
    "alignment",
    "paper",
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning"),
]


def given_for(device: str, way: str) -> dict[str, Any]:
    """The arguments of a way; those of surgery need its extra."""
    if "surgery" in way:
        pytest.importorskip("torchjd")
    given = {"use_cpu": device == "cpu", "bf16": True, "max_steps": 2, **WAYS[way]}
    if given.get("lookahead") == "next":
        given["meta_dataset"] = None
    return given


def assert_finite(trainer: Any) -> None:
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert lines
    values = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert torch.tensor(values).isfinite().all()


@ON_DEVICES
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train(tmp_path, monkeypatch, device, way):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    model = make_model(dropout=0.1)
    trainer = make_trainer(tmp_path, model, data_collator=masking(), **given_for(device, way))
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of fidelity in half precision
        trainer.train()

    assert next(model.parameters()).device.type == device
    assert_finite(trainer)
    after = {name: tensor.to(device) for name, tensor in before.items()}
    assert "shared" in moved(after, model)
    assert len(moved(after, model)) > 2
    if "torch_compile" in WAYS[way]:
        torch._dynamo.reset()


@ON_DEVICES
@pytest.mark.parametrize(
    ("name", "options"),
    [("llama", {}), ("gpt2", {}), ("mt5", {}), ("llama", {"config": "lora"}), ("llama", {"θ": 1})],
    ids=["llama", "gpt2", "mt5", "lora", "two-loras"],
)
def test_other_models_train(tmp_path, device, name, options):
    base = tiny(name).make()
    given: dict[str, Any] = {}
    if options:
        given["config"] = lora(base)
    if "θ" in options:
        given["shared"] = lora(base)

    model = make_model(name=name, **given)
    collated = {"train_dataset": texts(1, model.languages), "meta_dataset": texts(2)}
    trainer = make_trainer(tmp_path, model, **given_for(device, "fast"), **collated)
    trainer.train()
    assert_finite(trainer)


@ON_DEVICES
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("way", RESUMED)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    tmp_path, monkeypatch, device, way, precision
):
    few = ("fast", "next")
    if way not in few and (precision == "fp32" or device == "cpu"):
        pytest.skip("in bf16, on a GPU")

    given = {**given_for(device, way), "max_steps": 4, "bf16": precision == "bf16"}
    saves = {"save_strategy": "steps", "save_steps": 2, "data_collator": masking()}
    trainers = []
    with repeatable(monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of operations that are not repeatable
        for seed, checkpoint in ((0, None), (1, str(tmp_path / "checkpoint-2"))):
            model = make_model(dropout=0.1, seed=seed)
            trainer = make_trainer(tmp_path, model, **given, **saves)
            torch.manual_seed(seed)
            trainer.train(resume_from_checkpoint=checkpoint)
            # what the next dropout would be
            trainer.draws = [*torch.rand(3).tolist(), *torch.rand(3, device=device).tolist()]
            trainers.append(trainer)

    assert_same_run(*trainers)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fast", "next"])
def test_languages_in_a_pass_are_chosen_from_free_memory(tmp_path, way):
    """All fit on a card that is not full; and they take no more than was foreseen."""
    given = {**given_for("cuda", way), "languages_per_pass": "auto", "max_steps": 8}
    trainer = make_trainer(tmp_path, make_model(dropout=0.1), **given)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["languages_per_pass"] for line in lines] == [1, 1, 1, 3, 3, 3, 3, 3]

    # the peak of the last step, measured anew by nobody since the third
    state = trainer._outer_step._passes._memory.state()
    foreseen = state["before"] + 3 * state["pass"]
    assert 0 < torch.cuda.max_memory_allocated() <= 1.1 * foreseen + 2**23


@pytest.mark.gpu
def test_half_precision_with_a_loss_scale(tmp_path):
    model = make_model(dropout=0.1)
    given = {**given_for("cuda", "fast"), "bf16": False, "fp16": True, "max_steps": 4}
    trainer = make_trainer(tmp_path, model, data_collator=masking(), **given)
    trainer.train()
    assert trainer.accelerator.scaler is not None
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@ON_DEVICES
def test_what_is_saved_is_loaded(tmp_path, device):
    model = make_model().to(device).eval()
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path).to(device).eval()
    batch = {name: value.to(device) for name, value in tiny("xlm-r").batch().items()}
    for key in model.languages:
        pair = [one(language=key, **batch).logits for one in (model, loaded)]
        assert torch.equal(*pair)
    model.add_language("sw", copy_from="da")
    assert {p.device.type for p in model.language_parameters("sw").values()} == {device}


def one_process(folder: str) -> None:
    """Training by one process of a launch."""
    given = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    for number, way in enumerate(("fast", "next, one pass")):
        more = {**given_for("cuda", way), **given}
        trainer = make_trainer(f"{folder}/{number}", make_model(), **more)
        trainer.train()
        assert_finite(trainer)
        assert "nccl" in torch.distributed.get_backend()
    torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
def test_a_launch_of_one_process(tmp_path: Path) -> None:
    """Not forked: a process that has seen a GPU cannot be."""
    code = f"from tests.gpu.test_training import one_process; one_process({str(tmp_path)!r})"
    variables = {**environment(0, 1, free_port()), **os.environ}
    del variables["ACCELERATE_USE_CPU"]
    command = [sys.executable, "-c", code]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        command, cwd=root, env=variables, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]

"""The short version of the soak, and the record of the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_as_the_one_that_is_not(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "recipes" / "soak.py"),
        "--kills",
        "3",
        "--kills_in_saves",
        "2",
    ]
    command += ["--steps", "16", "--output", str(tmp_path / "soak.json")]
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": "",
        "HF_HUB_OFFLINE": "1",
    }
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "soak.json").read_text())
    assert len(result["kills"]) == 3
    assert result["kills_in_saves"] >= 1
    held = {f"{key}/adapter_model.safetensors" for key in ("en", "fr", "ru", "sw")} | {
        "model.safetensors",
        "logs",
    }
    assert held | {"optimizer.pt", "scheduler.pt", "rng_state.pth", "rows seen"} == set(
        result["equal"]
    )
    assert all(result["equal"].values())


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["shared_lora", "sigterm"])
def test_other_settings_end_as_if_they_had_not_been_killed(tmp_path, setting):
    if setting == "sigterm" and transformers.__version__ < "5":
        pytest.skip("transformers 4 does not have `enable_jit_checkpoint`")
    command = [sys.executable, str(ROOT / "recipes" / "soak_settings.py"), "--settings", setting]
    command += ["--kills", "2", "--kills_in_saves", "1", "--steps", "12"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    found = subprocess.run(
        [*command, "--output", str(tmp_path / "soak.json")],
        cwd=tmp_path,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    run = json.loads((tmp_path / "soak.json").read_text())["runs"][setting]
    assert len(run["kills"]) == 2
    weights = (
        "shared/adapter_model.safetensors" if setting == "shared_lora" else "model.safetensors"
    )
    assert {weights, "sw/adapter_model.safetensors", "optimizer.pt", "logs"} < set(run["equal"])
    assert all(run["equal"].values())


def test_the_record_of_other_settings_is_of_twenty_kills():
    path = ROOT / "recipes" / "results" / "soak_settings_cpu.json"
    runs = json.loads(path.read_text())["runs"]
    assert set(runs) == {
        *("shared_lora", "alternating", "best_model", "sigterm", "autocast", "copies")
    }
    assert sum(len(run["kills"]) for run in runs.values()) >= 20
    assert all(all(run["equal"].values()) for run in runs.values())


def test_the_record_is_of_twenty_kills():
    result = json.loads((ROOT / "recipes" / "results" / "soak_cpu.json").read_text())
    assert len(result["kills"]) == 20
    assert result["kills_in_saves"] >= 5
    assert all(result["equal"].values())

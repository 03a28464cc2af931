"""The short version of the soak, and the record of the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_record_is_of_twenty_kills():
    result = json.loads((ROOT / "recipes" / "results" / "soak_cpu.json").read_text())
    assert len(result["kills"]) == 20
    assert result["kills_in_saves"] >= 5
    assert all(result["equal"].values())

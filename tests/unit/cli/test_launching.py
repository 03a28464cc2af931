"""What `hf-meta-adapters run` fills in for `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command_parser

from hf_meta_adapters.cli import launching
from hf_meta_adapters.cli.launching import launch, with_defaults

PROGRAM = """
import json, os, sys
import torch
names = ["OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"]
print(json.dumps([sys.argv[1:], torch.get_num_threads(), *map(os.environ.get, names)]))
"""


def options(*words: str, accelerators: int = 0) -> dict:
    args = launch_command_parser().parse_args([*words, "program.py"])
    with_defaults(args, accelerators)
    return vars(args)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve cores, and no word about threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)


@pytest.mark.parametrize(
    ("words", "accelerators", "expected"),
    [
        ([], 0, 12),
        (["--num_processes", "4"], 0, 3),
        (["--num_processes", "4", "--num_machines", "2"], 0, 6),
        (["--num_processes", "24"], 0, 1),
        (["--num_cpu_threads_per_process", "5"], 0, 5),
        ([], 1, None),
        ([], 8, None),
    ],
)
@pytest.mark.usefixtures("threads")
def test_processes_share_the_cores_where_nothing_else_computes(
    words: list[str], accelerators: int, expected: int | None
) -> None:
    found = options(*words, accelerators=accelerators)
    assert found["num_cpu_threads_per_process"] == expected


@pytest.mark.usefixtures("threads")
def test_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert options()["num_cpu_threads_per_process"] is None  # accelerate reads the variable


@pytest.mark.parametrize(
    ("words", "accelerators", "expected"),
    [
        ([], 0, 1),
        ([], 1, 1),
        ([], 2, None),
        (["--num_processes", "3"], 0, 3),
        (["--use_fsdp"], 1, None),
        (["--multi_gpu"], 1, None),
        (["--num_machines", "2"], 0, None),
    ],
)
def test_one_process_for_at_most_one_device(
    words: list[str], accelerators: int, expected: int | None
) -> None:
    assert options(*words, accelerators=accelerators)["num_processes"] == expected


def test_what_is_given_stays() -> None:
    words = ["--mixed_precision", "bf16", "--num_machines", "2", "--dynamo_backend", "inductor"]
    found = options(*words)
    assert [found[word[2:]] for word in words[::2]] == ["bf16", 2, "inductor"]


def test_a_configuration_has_all_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given, or where `accelerate config` writes it."""
    started = []
    monkeypatch.setattr(launching, "launch_command", started.append)
    file = tmp_path / "default.yaml"
    monkeypatch.setattr(launching, "default_config_file", str(file))
    launch(["program.py"])
    launch(["--config_file", "mine.yaml", "program.py"])
    file.write_text("num_processes: 2\n", encoding="utf-8")
    launch(["program.py"])
    assert [args.num_machines for args in started] == [1, None, None]


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "1"}])
def test_a_launched_program_has_the_cores_and_no_warning(tmp_path: Path, given: dict) -> None:
    """Beside `accelerate launch`, which warns."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    variables |= {"HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", **given}

    def run(*command: str) -> tuple[list, str]:
        words = [sys.executable, *command]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
        return json.loads(done.stdout), done.stderr

    alone, _ = run(str(file), "--x", "1")
    launched, warned = run("-m", "hf_meta_adapters.cli.launching", str(file), "--x", "1")
    plain, plain_warned = run("-m", "accelerate.commands.launch", str(file), "--x", "1")

    assert launched[:2] == alone[:2]
    assert "had defaults used instead" in plain_warned
    assert "had defaults used instead" not in warned
    assert launched[3:] == plain[3:] == ["no", "NO"]

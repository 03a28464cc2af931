"""Peaks of memory are those of the step, and come from a process of their own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_meta_adapters.study import memory
from hf_meta_adapters.study.memory import RETURN_FREED_MEMORY, peak_in_own_process

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or Path("/proc/self/clear_refs").exists()),
    reason="NOT CHECKED: peaks of memory need a CUDA device or Linux",
)


# In a process of its own: what malloc has kept of an earlier test would hide a peak.
PEAKS = """
import torch
from hf_meta_adapters.study.memory import peak_memory

def fill(megabytes):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.ones(megabytes * 10**6 // 4, device=device).sum()

print(peak_memory(lambda: fill(200)), peak_memory(lambda: fill(20)))
"""


def test_the_peak_is_that_of_the_step_alone():
    """Seen after its memory is free again, and without what an earlier step needed."""
    command = [sys.executable, "-c", PEAKS]
    variables = {**os.environ, **RETURN_FREED_MEMORY}
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    large, small = map(float, run.stdout.split())
    assert 190 < large < 300
    assert small < 150


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory is counted exactly")
def test_a_peak_is_never_negative(monkeypatch):
    """Linux sums counters that are behind by some pages a core, at the start and at the end."""
    resident = {"VmRSS": 5000, "VmHWM": 4000}
    monkeypatch.setattr(memory, "_kilobytes", resident.get)
    assert memory.peak_memory(lambda: None) == 0

    resident["VmHWM"] = 7000
    assert memory.peak_memory(lambda: None) == 2


def test_the_command_is_run_again_with_the_further_arguments(tmp_path, monkeypatch):
    script = tmp_path / "benchmark.py"
    script.write_text("import sys; print('peak of', *sys.argv[1:], 1.5)")
    monkeypatch.setattr(sys, "argv", [str(script), "--given", "a"])
    assert peak_in_own_process("--peak_of", "b") == 1.5

    script.write_text("import sys; print(len(sys.argv[1:]))")
    assert peak_in_own_process("--peak_of", "b") == 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="NOT CHECKED: needs glibc")
def test_freed_memory_is_kept():
    """In a process of its own: malloc stays so to the end of it."""
    code = (
        "import torch; from pathlib import Path\n"
        "from hf_meta_adapters.study.memory import keep_freed_memory\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "kept = keep_freed_memory()\n"
        "blocks = [torch.ones(4_000_000) for _ in range(4)]\n"
        "before = resident(); del blocks; print(kept, before - resident())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, freed = run.stdout.split()
    assert kept == "True"
    assert int(freed) < 10_000_000

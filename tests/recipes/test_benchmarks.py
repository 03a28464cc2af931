"""The benchmarks of the outer step at a size that says nothing, but goes through all of their code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes import benchmark_meta_step

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_meta_step_measures_every_step(tmp_path, monkeypatch, capsys):
    output = tmp_path / "result.json"
    sizes = ["--languages", "2", "--batch_size", "2", "--hidden_size", "32", "--vocabulary", "200", "--repeats", "1"]
    command = [str(ROOT / "recipes" / "benchmark_meta_step.py"), "--output", str(output), *sizes]
    monkeypatch.setattr(sys, "argv", [*command, "--settings", "^fast$"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    benchmark_meta_step.main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["setting"] for row in rows] == ["joint, transformers.Trainer", "fast"]
    assert rows[0]["ratio"] == 1
    assert all(row["seconds"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert capsys.readouterr().out.count("| 2 | ") == len(rows)


def test_every_setting_has_its_share_of_meta_rows():
    assert all(0 < rows <= 1 for _, rows, _ in benchmark_meta_step.SETTINGS.values())

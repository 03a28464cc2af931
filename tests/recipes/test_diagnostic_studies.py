"""The studies and the benchmark of the diagnostics run, small, and write what their committed
results have.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "interference_factors": (
        "--languages",
        "en",
        "fr",
        "--shares",
        "0.5",
        "--widths",
        "16",
        "--width",
        "16",
    ),
    "conflict_on_text": ("--languages", "en", "sw", "--probes", "4", "--mask_steps", "1"),
}


def keys(value):
    """The names in a result, without those that are data."""
    return set(value) if isinstance(value, dict) else set()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_study_runs(name, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "result.json"
    monkeypatch.setattr(
        sys, "argv", [f"{name}.py", *SMALL[name], "--steps", "2", "--output", str(output)]
    )
    runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
    result = json.loads(output.read_text(encoding="utf-8"))
    committed = json.loads(
        (ROOT / "recipes" / "results" / f"{name}.json").read_text(encoding="utf-8")
    )
    assert keys(result) == keys(committed)
    assert keys(result["arguments"]) == keys(committed["arguments"])
    assert {"command", "hardware", "versions", "seconds"} <= keys(result)
    if name == "interference_factors":
        assert list(result["studies"]) == ["corpus size 0.5", "pair fr–en", "width 16"]
        seen = [study["examples_seen"] for study in result["studies"].values()]
        assert {tuple(pair) for study in seen for pair in study.values()} == {(24, 24)}
        assert (
            result["models"] == 6
        )  # three joint ones; French from half and from all of its verses, English
    else:
        assert [one["pair"] for one in result["pairs"]].count("en–sw") == 1
        assert list(result["over_time"]) == ["0", "1", "2"]
        assert output.with_suffix(".png").is_file()
    assert "|" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, monkeypatch):
    output = tmp_path / "cost.json"
    small = ["--intervals", "1", "--hidden_size", "8", "--batch_size", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark_diagnostics.py", *small, "--output", str(output)])
    runpy.run_path(str(ROOT / "recipes" / "benchmark_diagnostics.py"), run_name="__main__")
    result = json.loads(output.read_text())
    committed = json.loads((ROOT / "recipes" / "results" / "diagnostics_cost.json").read_text())
    assert keys(result) == keys(committed)
    assert result["measurements"] == 4  # before and after, in two runs
    assert result["weights_are_bitwise_equal"]
    assert committed["weights_are_bitwise_equal"]

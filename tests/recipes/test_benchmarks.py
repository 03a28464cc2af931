"""The benchmarks of the outer step, at a size that runs all of their code and measures nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import transformers

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.study.token_tables import token_table
from recipes import (
    benchmark_around_step,
    benchmark_fidelity,
    benchmark_fine_tuning,
    benchmark_meta_step,
    benchmark_surgery,
)
from tests.docs.conftest import tokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_meta_step_measures_every_step(tmp_path, monkeypatch, capsys):
    output = tmp_path / "result.json"
    sizes = [
        "--languages",
        "2",
        "--batch_size",
        "2",
        "--hidden_size",
        "32",
        "--vocabulary",
        "200",
        "--repeats",
        "1",
    ]
    command = [str(ROOT / "recipes" / "benchmark_meta_step.py"), "--output", str(output), *sizes]
    monkeypatch.setattr(sys, "argv", [*command, "--settings", "^(fast|next.*)$"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    benchmark_meta_step.main()
    rows = json.loads(output.read_text())["rows"]
    measured = ["joint, transformers.Trainer", "fast", "next"]
    measured += ["next, half the rows", "next, a quarter of the rows", "next, half the languages"]
    assert [row["setting"] for row in rows] == measured
    assert rows[0]["ratio"] == 1
    # a model this small finds the memory that the first step has left
    assert all(row["seconds"] > 0 and row["peak_mb"] >= 0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| 2 | ") for line in lines) == len(rows)


@pytest.mark.slow
def test_the_benchmark_of_surgery_measures_every_way(tmp_path, monkeypatch, capsys):
    output = tmp_path / "result.json"
    command = ["benchmark_surgery.py", "--output", str(output), "--languages", "2"]
    command += ["--batch_size", "2", "--hidden_size", "32", "--vocabulary", "200", "--repeats", "1"]
    monkeypatch.setattr(benchmark_surgery, "peak_memory", lambda step: step() and 7.0)
    monkeypatch.setattr(sys, "argv", [*command, "--peak_of", "lagged", "--lora", "True"])
    benchmark_surgery.main()
    assert capsys.readouterr().out.strip() == "7.0"

    monkeypatch.setattr(benchmark_surgery, "peak_in_own_process", lambda *given: 7.0)
    monkeypatch.setattr(sys, "argv", command)
    benchmark_surgery.main()
    result = json.loads(output.read_text())
    names = [(row["theta"], row["step"]) for row in result["rows"]]
    assert names == [(t, w) for t in ("all weights", "LoRA") for w in benchmark_surgery.WAYS]
    assert all(row["seconds"] > 0 and row["peak_mb"] == 7.0 for row in result["rows"])
    assert capsys.readouterr().out.count("| 2 | ") == len(names)
    assert set(result["milliseconds_of_weights"]) == set(benchmark_surgery.METHODS)


def test_every_setting_has_its_share_of_meta_rows():
    assert all(0 < rows <= 1 for _, rows, _ in benchmark_meta_step.SETTINGS.values())


@pytest.mark.slow
def test_the_benchmark_of_fidelity_compares_every_setting(tmp_path, monkeypatch, capsys):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.XLMRobertaConfig(vocab_size=320, max_position_embeddings=130, **sizes)
    base = transformers.XLMRobertaForMaskedLM(config)
    get_language_model(base, BottleneckConfig(bottleneck_size=2), ["en", "sw"]).save_pretrained(
        tmp_path / "family"
    )
    tokenizer().save_pretrained(tmp_path / "family")
    output, few = (
        tmp_path / "results" / "result.json",
        ["--draws", "2", "--batch_size", "2", "--language_draws", "2"],
    )
    command = [
        "benchmark_fidelity.py",
        "--model",
        str(tmp_path / "family"),
        "--output",
        str(output),
        *few,
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--inner_learning_rates", "0.001", "0.01"])
    benchmark_fidelity.main()
    result = json.loads(output.read_text())
    rows = result["rows"]
    assert {row["inner_learning_rate"] for row in rows} == {0.001, 0.01}
    assert {*benchmark_fidelity.SETTINGS, "two draws of batches, exact"} < {
        row["setting"] for row in rows
    }
    found = {row["setting"]: row["worst"] for row in rows if row["inner_learning_rate"] == 0.001}
    assert found["per language, central"] > 0.999
    assert {name for name in found if "lagged" in name} == {"lagged, mean of 1"}  # of two draws
    of_next = {row["setting"]: row for row in result["next_rows"] if row["learning_rate"] == 0.001}
    assert {*benchmark_fidelity.NEXT} < {*of_next}
    assert of_next["next"]["worst"] > 0.999
    assert of_next["next, half the rows"]["worst"] < of_next["next"]["worst"]
    count = len(rows) + len(result["next_rows"])
    assert capsys.readouterr().out.count("\n") == count + 2


def test_the_benchmark_of_fidelity_says_where_a_family_comes_from(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark_fidelity.py", "--model", "outputs/none"])
    with pytest.raises(SystemExit, match=r"Found no outputs/none\. `make quickstart` makes one"):
        benchmark_fidelity.main()


@pytest.mark.slow
def test_the_benchmark_of_fine_tuning_measures_and_profiles_every_step(
    tmp_path, monkeypatch, capsys
):
    output = tmp_path / "result.json"
    command = ["benchmark_fine_tuning.py", "--output", str(output), "--languages", "2"]
    command += ["--shape", "tiny_token_classifier", "--repeats", "1", "--profile", "true"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark_fine_tuning.main()
    rows = json.loads(output.read_text())["rows"]
    measured = ["joint, transformers.Trainer", "joint", "fast", "next", "paper"]
    assert [row["setting"] for row in rows] == measured
    for row in rows:
        assert row["seconds"] > 0
        times = [one["milliseconds"] for one in row["profile"]["operations"]]
        assert times == sorted(times, reverse=True)
        assert times[-1] > 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| 2 | ") for line in lines) == len(rows)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="NOT CHECKED: peaks of memory need Linux"
)
@pytest.mark.parametrize(
    "part", [*benchmark_around_step.ARRANGEMENTS, benchmark_around_step.CHECKPOINT]
)
def test_the_benchmark_around_the_step_measures_every_part(part, tmp_path, monkeypatch, capsys):
    for number in range(2):
        token_table(tmp_path / f"x-l{number}.arrow", 200, vocabulary=200, seed=number)
    command = ["benchmark_around_step.py", "--languages", "2", "--rows", "200", "--repeats", "1"]
    command += ["--hidden_size", "16", "--vocabulary", "200", "--steps", "3", "--batch_size", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--part", part, "--folder", str(tmp_path)])
    benchmark_around_step.main()
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row.pop("part") == part
    loading = row.pop("loading", {"": 1.0})
    assert all(value > 0 for value in [*row.values(), *loading.values()])


def test_the_benchmark_around_the_step_times_imports(monkeypatch):
    statements = {"json": "import json", "nothing": "pass"}
    monkeypatch.setattr(benchmark_around_step, "IMPORTS", statements)
    found = benchmark_around_step.imports(repeats=1)
    assert [row["import"] for row in found] == list(statements)
    assert all(row["seconds"] >= 0 for row in found)

"""The run on a GPU, without one: its plan, its stages, and its benchmark at a tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_meta_adapters.cli.catalogue import find_config, find_recipe
from hf_meta_adapters.cli.declared_options import declared_options
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study import benchmark_steps
from hf_meta_adapters.study.benchmark_shapes import SHAPES, flops_of_training
from hf_meta_adapters.study.device_report import bf16_peak
from hf_meta_adapters.study.step_clock import StepClock
from recipes import benchmark_gpu, gpu
from tests.docs import tables

ROOT = Path(__file__).resolve().parents[2]
LONG = 1e9


def called(recipe: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    path = ROOT / "recipes" / f"{recipe.__name__.rpartition('.')[2]}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
    return recipe.main()


def test_the_plan_is_printed_without_a_gpu(tmp_path, monkeypatch, capsys):
    words = ("--dry_run", "true", "--output_dir", tmp_path / "out")
    assert called(gpu, monkeypatch, *words) == 0
    said = capsys.readouterr().out
    for part in ("Within 9 minutes", "tests, at most", "benchmark, at most", "few_label_gpu"):
        assert part in said
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_nothing_else_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="needs a CUDA device, and a PyTorch built for it"):
        called(gpu, monkeypatch, "--output_dir", tmp_path / "out")


@pytest.mark.parametrize(
    "words",
    [
        ["--stages", "test"],
        ["--studies", "few_label_study"],
        ["--studies", "few_label_study:few_label_tiny", "--shares", "1", "2"],
    ],
    ids=["stage", "study", "shares"],
)
def test_what_cannot_work_is_refused(monkeypatch, words):
    with pytest.raises(ConfigurationError, match=r"Stages must be of .* Found `--stages"):
        called(gpu, monkeypatch, *words)


def test_the_tests_are_those_that_are_marked():
    args = parse_arguments(gpu.Arguments, [])
    command, limit = gpu.fixed_stages(args)["tests"]
    named = {Path(word).name for word in command if word.endswith(".py")}
    assert {"test_steps.py", "test_training.py", "test_uses.py", "test_gradient.py"} <= named
    assert "test_house_rules.py" not in named
    assert limit == 120


def test_the_studies_are_there_and_take_what_they_are_given():
    args = parse_arguments(gpu.Arguments, ["--data", "DATA", "--model", "MODEL"])
    for study in args.studies:
        recipe, _, config = study.partition(":")
        given = gpu.study_command(args, study)
        assert Path(given[1]) == find_recipe(recipe)
        assert find_config(config).is_file()
        options = declared_options(find_recipe(recipe))
        assert {word.removeprefix("--") for word in given if word.startswith("--")} <= set(options)


STUB = """
import json, pathlib, sys, time
given = sys.argv[1:]
if "--report" in given:
    pathlib.Path(given[given.index("--results") + 1]).write_text("{}")
elif "long" in given:
    time.sleep(600)
else:
    raise SystemExit(int("bad" in given))
"""


def test_a_stage_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    """Stubs take the place of the recipes: what matters is when they begin and how they end."""

    def stub(recipe, *words):
        assert recipe in ("benchmark_gpu", "some_study")
        bad = ["bad"] if recipe == "benchmark_gpu" else []
        return [sys.executable, "-c", STUB, *map(str, words), *bad]

    monkeypatch.setattr(gpu, "python", stub)
    monkeypatch.setattr(gpu, "REPORT_SECONDS", 30)
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 1)
    words = ["--device", "cpu", "--stages", "benchmark", "studies", "--output_dir", tmp_path]
    words += ["--studies", "some_study:long", "some_study:quick", "--minutes", "0.6"]
    words += ["--processes", "6", "--shares", "2", "1"]
    assert called(gpu, monkeypatch, *words, "--data", "DATA", "--model", "MODEL") == 1

    content = json.loads((tmp_path / "gpu.json").read_text())
    stages = {one["name"]: one for one in content["stages"]}
    assert [*stages] == [
        "benchmark",
        "some_study:long",
        "some_study:quick",
        "some_study:long, report",
        "some_study:quick, report",
    ]
    assert stages["benchmark"]["returncode"] == 1
    assert stages["some_study:long"]["stopped"]
    assert "--data DATA --model MODEL" in stages["some_study:quick"]["command"]
    assert not stages["some_study:quick"]["stopped"]
    for name, processes in (("long", 4), ("quick", 2)):
        assert f"--processes {processes} " in stages[f"some_study:{name}"]["command"]
    assert (tmp_path / "long.json").exists()
    assert {"command", "hardware", "versions"} <= set(content)
    assert "failed: ['benchmark']" in capsys.readouterr().out


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the benchmark at a size that measures nothing."""
    output = tmp_path_factory.mktemp("gpu") / "benchmark_gpu.json"
    words = ["--device", "cpu", "--output", output, "--repeats", 1, "--seconds", LONG]
    words += ["--shapes", "tiny_encoder", "tiny_decoder", "--languages", 2, 4]
    with pytest.MonkeyPatch.context() as patch:
        called(benchmark_gpu, patch, *words)
    return json.loads(output.read_text())


def test_the_benchmark_measures_every_step(measured):
    rows = measured["rows"]
    for shape, routed in (("tiny_encoder", True), ("tiny_decoder", False)):
        for count in (2, 4):
            own = [
                row
                for row in rows
                if (row["shape"], row["languages"]) == (SHAPES[shape].name, count)
            ]
            names = [row["setting"] for row in own]
            assert names[0] == benchmark_steps.TRAINER
            assert own[0]["ratio"] == 1
            assert ("next, one pass" in names) == routed
            assert ("paper" in names) == (count == 2)
            assert {row["error"] for row in own} == {None}
            assert all(row["tokens_per_second"] > 0 and row["repeats"] == 1 for row in own)
    assert measured["hardware"]["device"] == "cpu"


def test_the_tables_of_the_page_can_be_made_of_it(measured, monkeypatch):
    monkeypatch.setattr(tables, "result", lambda name: measured)
    monkeypatch.setattr(tables, "has_result", lambda name: True)
    for name in ("gpu_encoder", "gpu_decoder"):
        monkeypatch.setattr(tables, "GPU_SHAPES", {name: SHAPES[name.replace("gpu", "tiny")].name})
        table = tables.TABLES[name]()
        assert benchmark_steps.TRAINER in table
        assert "| 1.00 |" in table


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self) -> None:
        raise self.error


def test_a_step_that_fails_does_not_end_the_others(monkeypatch):
    model = SHAPES["tiny_encoder"].make(["a", "b"], "cpu")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    steps = {
        benchmark_steps.TRAINER: lambda: None,
        "large": Failing(torch.cuda.OutOfMemoryError("CUDA out of memory")),
        "bad": Failing(ValueError("of a kernel")),
    }
    found = benchmark_gpu.rounds(steps, model, StepClock("cpu", LONG), repeats=2)
    rows = benchmark_gpu.rows_of(found, SHAPES["tiny_encoder"], 2, 1e6, 100.0)
    errors = [row["error"] for row in rows]
    assert errors == [None, "out of memory", "ValueError: of a kernel"]
    assert rows[0]["repeats"] == 2
    assert rows[0]["share_of_peak"] > 0

    late = benchmark_gpu.rounds(steps, model, StepClock("cpu", 0.0), repeats=2)
    rows = benchmark_gpu.rows_of(late, SHAPES["tiny_encoder"], 2, 1e6, None)
    assert {row["error"] for row in rows} == {"not run"}


def test_compiled_steps_change_the_model_for_all_that_follow(monkeypatch):
    with pytest.raises(ConfigurationError, match="Pass one of each"):
        called(benchmark_gpu, monkeypatch, "--device", "cpu", "--compiled", "true")


def test_operations_counted_by_hand():
    shape = SHAPES["tiny_encoder"]
    model = shape.make(["a", "b"], "cpu")
    batch = shape.batch("cpu")
    # 16 units: attention 4 · (256 + 16), layers 16 · 32 + 32 and 32 · 16 + 16, norms 2 · 32, the
    # norm of the embeddings 32, the head's own layer 256 + 16 + 32 and its bias 200
    body = 4 * 272 + 544 + 528 + 64 + 32 + 304 + 200
    labeled = int((batch["labels"] != -100).sum())
    expected = 6 * (body * 16 + 200 * 16 * labeled)
    assert flops_of_training(shape, model, {"a": batch}) == expected

    frozen = SHAPES["tiny_decoder"]
    model = frozen.make(["a", "b"], "cpu")
    batch = frozen.batch("cpu")
    body = 256 + 2 * 128 + 256 + 3 * 16 * 32 + 3 * 16
    assert flops_of_training(frozen, model, {"a": batch}) == 4 * (body * 16 + 200 * 16 * 16)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_card(name, peak):
    assert bf16_peak(name) == peak

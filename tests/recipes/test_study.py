"""The study runs at its smallest size, goes on after a kill, tunes on selection text, and reports
what it found.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.cells import study_cells, trial_cells
from hf_meta_adapters.study.method_scores import scores_by_method
from hf_meta_adapters.study.methods import METHODS
from hf_meta_adapters.study.reporting import study_report
from hf_meta_adapters.study.study_arguments import StudyArguments
from hf_meta_adapters.study.tuning import tune_methods

# The whole study at its smallest takes under a minute where nothing else runs.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
FEWER = ["--methods", "mono", "joint", "adapters", "meta_fast", "--languages", "en", "sw"]


def command(*arguments: object) -> list[str]:
    recipe, config = ROOT / "recipes" / "interference_study.py", CONFIGS / "study_tiny.yaml"
    return [sys.executable, str(recipe), "--config", str(config), *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "agg",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def study(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the recipe as a user does, in the project's folder."""
    options = {
        "cwd": ROOT,
        "env": environment(),
        "capture_output": True,
        "text": True,
        "timeout": 580,
    }
    return subprocess.run(command(*arguments), **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of `study_tiny.yaml` as it stands."""
    folder = tmp_path_factory.mktemp("tiny")
    done = study("--output_dir", folder, "--results", folder / "results.json")
    assert done.returncode == 0, done.stderr
    assert "70/70 cells" in done.stderr  # progress
    return folder


@pytest.mark.slow
def test_the_smallest_study_has_every_cell_and_a_report(tiny):
    cells = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (tiny / "cells").iterdir()
    }
    assert len(cells) == 70
    for cell in cells.values():
        assert {"settings", "result", "seconds", "cpu_seconds", "machine"} == set(cell)
        assert {"scores", "bytes", "examples", "versions", "meter"} <= set(cell["result"])
        assert all(math.isfinite(value) for value in cell["result"]["scores"]["mlm"].values())
    assert cells["meta_paper-en+fr+sw-0"]["result"]["meter"]["meta_indirect_ratio"]
    assert cells["meta_paper-en+fr+sw-0"]["result"]["meta_examples"]
    assert not cells["joint-en+fr+sw-0"]["result"]["meta_examples"]
    page = (tiny / "report.md").read_text(encoding="utf-8")
    assert all((tiny / name).is_file() for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page))
    assert {"mlm_all.png", "interference_mlm_all.png", "mlm_pairs.png", "report.html"} <= {
        p.name for p in tiny.iterdir()
    }
    report = json.loads((tiny / "report.json").read_text(encoding="utf-8"))
    assert set(report["mlm_all"]["scores"]) == set(METHODS) - {"adapters_longer"}
    assert not any("UNFINISHED" in finding for finding in report["findings"])
    written = json.loads((tiny / "results.json").read_text(encoding="utf-8"))
    assert written["cells"] == {name: cells[name] for name in written["cells"]}
    assert len(written["cells"]) == 70
    assert str(ROOT.parent) not in json.dumps(written["cells"])


@pytest.mark.slow
def test_models_alone_and_together_see_as_many_examples(tiny):
    for seed in (0, 1):
        cells = [
            json.loads((tiny / "cells" / f"{name}-{seed}.json").read_text())
            for name in ("joint-en+fr+sw", "mono-sw")
        ]
        together, alone = (cell["result"]["examples"]["sw"] for cell in cells)
        assert together == alone > 0


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    given = [*FEWER, "--seeds", "0", "1", "2", "--output_dir", tmp_path, "--processes", "2"]
    options = {
        "cwd": ROOT,
        "env": environment(),
        "stderr": subprocess.PIPE,
        "start_new_session": True,
    }
    with subprocess.Popen(command(*given), **options) as running:
        deadline = time.monotonic() + 400
        while len(list(tmp_path.glob("cells/*.json"))) < 2 and time.monotonic() < deadline:
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)  # the workers are not told, and must end by themselves
        running.stderr.read()  # until nobody holds the other end
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")}
    cells = 15  # a pair of two languages is all languages
    assert 2 <= len(first) < cells
    done = study(*given, "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("cells/*.json"))) == cells
    assert first == {path: path.stat().st_mtime_ns for path in first}


@pytest.mark.slow
def test_what_was_tuned_is_what_the_study_uses(tmp_path):
    given = [*FEWER, "--seeds", "0", "--output_dir", tmp_path]
    tuned = study(*given, "--tune", "true")
    assert tuned.returncode == 0, tuned.stderr
    record = json.loads((tmp_path / "tuning.json").read_text(encoding="utf-8"))
    trials = yaml.safe_load((CONFIGS / "study_tiny.yaml").read_text(encoding="utf-8"))["trials"]
    assert {
        method: [one["trial"] for one in several] for method, several in record["trials"].items()
    } == trials
    for method, several in record["trials"].items():
        assert (
            record["best"][method]
            == min(several, key=lambda one: one["bits_per_character"])["trial"]
        )
    for path in (tmp_path / "tuning").iterdir():
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        assert settings["split"] == "valid"
        assert settings["seed"] not in (0, 1, 2)
    args = parse_arguments(
        StudyArguments, ["--config", str(CONFIGS / "study_tiny.yaml"), *map(str, given)]
    )
    args.data = str(ROOT / "recipes" / "data")
    cells = study_cells(args, record["best"])
    assert cells["meta_fast-en+sw-0"]["training"].items() >= record["best"]["meta_fast"].items()
    alpha = record["best"]["joint"]["sampling_alpha"]
    assert {cell["training"]["sampling_alpha"] for cell in cells.values()} == {alpha}


@pytest.mark.parametrize("name", ["tiny", "small", "treatments", "gpu"])
def test_a_configuration_is_complete_and_fair(name):
    path = CONFIGS / f"study_{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert all(f"# {word}:" in text for word in ("Needs", "Takes", "Command", "Override"))
    args = parse_arguments(StudyArguments, ["--config", str(path)])
    assert set(args.methods) | set(args.pair_methods) <= set(METHODS)
    assert {len(several) for several in args.trials.values()} == {len(args.trials["joint"])}
    assert any("sampling_alpha" in trial for trial in args.trials["joint"])
    for method, several in args.trials.items():
        for trial in several:  # what cannot work is an error before any training
            given = {**args.training, **METHODS[method].training, **trial}
            MetaAdapterTrainingArguments("outputs", report_to="none", **given)
    if name != "tiny":
        assert len(args.seeds) >= 3
        left = set(args.methods) - set(args.trials)
        assert all(METHODS[method].like in args.trials for method in left), left


def test_trials_have_the_seeds_that_are_asked_for():
    args = parse_arguments(
        StudyArguments, ["--config", str(CONFIGS / "study_tiny.yaml"), "--trial_seeds", "7", "8"]
    )
    args.data = str(ROOT / "recipes" / "data")
    cells = trial_cells(args, "meta_fast", 1, {"learning_rate": 0.5, "sampling_alpha": 0.3}, {})
    assert sorted(cells) == ["meta_fast-1-en+fr+sw-7", "meta_fast-1-en+fr+sw-8"]
    assert [cell["seed"] for cell in cells.values()] == [7, 8]
    assert {cell["training"]["sampling_alpha"] for cell in cells.values()} == {0.3}
    args.training["sampling_alpha"] = 0.1
    cell, _ = trial_cells(args, "joint", 0, {}, {}).values()
    assert cell["training"]["sampling_alpha"] == 0.1
    cell, _ = trial_cells(args, "meta_fast", 0, {}, {"joint": {"sampling_alpha": 0.2}}).values()
    assert cell["training"]["sampling_alpha"] == 0.2  # what was tuned for joint wins


def test_methods_must_have_as_many_trials():
    with pytest.raises(ConfigurationError, match=r"as many trials.*'joint': 2, 'mono': 1"):
        tune_methods({"joint": [{}, {}], "mono": [{}]}, lambda *_: {}, dict)


def made(method: str, languages: list[str], seed: int, scores: dict, **result: object) -> dict:
    settings = {"method": method, "languages": languages, "seed": seed}
    counted = {
        "bytes": 8,
        "seconds": 1.0,
        "cpu_seconds": 2.0,
        "examples": {"en": 3},
        "meta_examples": {},
        "meter": {},
    }
    return {
        "settings": settings,
        "result": {"scores": scores, "majority": {}, "versions": {}, **counted, **result},
    }


def test_scores_are_collected_by_seed_and_incomplete_methods_left_out():
    cells = [
        made("mono", [key], seed, {"mlm": {key: seed}}) for key in ("en", "sw") for seed in (1, 0)
    ]
    cells += [
        made("joint", ["en", "sw"], seed, {"mlm": {"en": 10 + seed, "sw": 20 + seed}})
        for seed in (1, 0)
    ]
    cells += [made("adapters", ["en", "sw"], 0, {"mlm": {"en": 1, "sw": 1}})]  # seed 1 is missing
    assert scores_by_method(cells, "mlm", ["en", "sw"]) == {
        "mono": {"en": [0, 1], "sw": [0, 1]},
        "joint": {"en": [10, 11], "sw": [20, 21]},
    }


def test_in_a_pair_the_score_is_that_of_the_other_language():
    cells = [
        made("joint", ["en", key], 0, {"mlm": {"en": 9, key: value}})
        for key, value in (("fr", 1), ("sw", 2))
    ]
    assert scores_by_method(cells, "mlm", ["en", "fr", "sw"], pivot="en") == {
        "joint": {"fr": [1], "sw": [2]}
    }
    assert scores_by_method(cells, "mlm", ["en", "fr", "sw"]) == {}


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_findings_say_who_is_better_in_the_right_direction(seeds, tmp_path):
    cells = []
    for seed in range(seeds):
        for method, bits in (("joint", 2.0), ("adapters", 3.0), ("meta_fast", 1.0 + 0.01 * seed)):
            cells += [made(method, ["en", "sw"], seed, {"mlm": dict.fromkeys(("en", "sw"), bits)})]
        cells += [made("mono", [key], seed, {"mlm": {key: 0.5}}) for key in ("en", "sw")]
    report = study_report(cells, ["en", "sw"], treatments=["meta_fast"], about={}, missing=2)
    report.save(tmp_path)  # as JSON without NaN, whatever the number of seeds
    unfinished, joint, adapters = report.findings
    assert "UNFINISHED: 2 cells" in unfinished
    verdict = "better" if seeds > 1 else "not distinguishable"  # fewer bits are better
    assert (
        f"meta_fast against joint, the best other: {verdict} (+{0.985 if seeds > 1 else 1.0:.3f}"
        in joint
    )
    assert f"meta_fast against adapters: {verdict} (+" in adapters
    assert report.to_dict()["compute"]["joint"]["cpu_seconds"] == 2.0
    rows = report.to_dict()["interference_mlm_all"]["rows"]
    assert {row["difference"] for row in rows} == {1.5}

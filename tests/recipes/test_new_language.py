"""The study of new languages at its smallest size: it goes on where it was killed, in one process
or two, and judges by the criterion that its configuration fixes.
"""

import gzip
import json
import math
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study.continued_pretraining import ContinuedPretraining
from hf_meta_adapters.study.masked_word_head import HeadTraining
from hf_meta_adapters.study.new_language_plan import (
    STARTS,
    NewLanguageArguments,
    family_plan,
    growth_plan,
    taken_start,
)
from hf_meta_adapters.study.new_language_report import (
    judge_starts,
    new_language_markdown,
    new_language_report,
)
from tests.docs.new_language import new_language_curves, new_language_differences

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
RECIPE = ROOT / "recipes" / "new_language_study.py"
ANEW = "te-x-reptile-1"
KEPT = "te-fresh-0"


@pytest.fixture(scope="module")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first lines of the real data: whole files would take longer to read than the study."""
    folder = tmp_path_factory.mktemp("data")
    for language in ("en", "sw", "te"):
        for name in ("text/{}/train.txt.gz", "text/{}/test.txt.gz", "pos/{}/train.jsonl.gz"):
            with gzip.open(shared_data / name.format(language), "rt") as file:
                lines = [line for _, line in zip(range(50), file, strict=False)]
            place = folder / name.format(language)
            place.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(place, "wt") as file:
                file.writelines(lines)
    return folder


def run(data: Path, *others: object) -> None:
    """Run the recipe as a user does."""
    config = ["--config", CONFIGS / "new_language_tiny.yaml", "--data", data]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(one) for one in (RECIPE, *config, *others)])
        # For the processes that it starts.
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        runpy.run_path(str(RECIPE), run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path, data: Path) -> dict[str, Any]:
    """The results file of `new_language_tiny.yaml`."""
    run(data, "--output_dir", folder, "--results", folder / "results.json")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_smallest_study_has_every_cell_and_a_verdict(
    tiny: dict[str, Any], folder: Path
) -> None:
    names = list(tiny["cells"])
    assert names[:2] == ["family-0", "family-1"]  # they say which language is near
    assert tiny["missing"] == []
    assert "Criterion: complete." in (folder / "report.md").read_text(encoding="utf-8")

    families = {
        name: {**cell, "settings": {**tiny["common_settings"], **cell["settings"]}}
        for name, cell in tiny["cells"].items()
        if name.startswith("family")
    }
    for family in families.values():
        seed, result = family["settings"]["seed"], family["result"]
        assert set(result["nearest"]["te"]) == set(result["gradient"]["te"]) == {"en", "sw"}
        assert {"loss", "reptile"} <= set(result["record"])
        taken = {taken_start(start, "te", family) for start in STARTS}
        expected = {f"te-{start or 'fresh'}-{seed}" for start in taken}
        assert expected == {name for name in names[2:] if name.endswith(f"-{seed}")}

    for name in names[2:]:
        scores = tiny["cells"][name]["result"]["scores"]
        assert list(scores) == ["0", "1", "2"]
        assert all(map(math.isfinite, scores.values()))
        assert len(set(scores.values())) > 1  # it was trained

    assert len(tiny["criterion"]["comparisons"]) == 8
    assert tiny["curves"]["fresh"]["te"]["seeds"] == 2
    assert tiny["head"]["after"] < tiny["head"]["before"]
    assert {"command", "versions", "hardware", "seeds", "estimated_hours", "hours"} <= set(tiny)
    assert str(ROOT.parent) not in json.dumps(tiny["cells"])


@pytest.mark.slow
def test_the_family_is_kept_with_its_start(tiny: dict[str, Any], folder: Path) -> None:
    assert tiny["seeds"] == [0, 1]
    places = sorted((folder / "families").iterdir())
    assert [place.name.split("-")[0] for place in places] == ["0", "1"]
    model = LanguageAdapterModel.from_pretrained(places[0])
    assert model.languages == ("en", "sw", "x-reptile")


@pytest.mark.slow
def test_tables_of_the_page_are_made_from_a_results_file(tiny: dict[str, Any]) -> None:
    for table in (new_language_curves(tiny), new_language_differences(tiny)):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert new_language_curves(tiny).count("\n| te |") == 5
    assert new_language_differences(tiny).count("\n") == 9
    unfinished = {**tiny["criterion"], "verdict": "UNFINISHED: 1 of 2 seeds", "comparisons": []}
    text = new_language_differences({**tiny, "criterion": unfinished})
    assert text == "The study is not complete yet: UNFINISHED: 1 of 2 seeds."


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
def test_a_killed_study_goes_on_and_two_processes_compute_the_same(
    tiny: dict[str, Any], folder: Path, data: Path, tmp_path: Path
) -> None:
    place = tmp_path / "killed"
    shutil.copytree(folder, place)
    for name in (ANEW, KEPT):
        (place / "cells" / f"{name}.json").unlink()
    # One was killed while its family was trained anew, which another machine has kept.
    (family,) = (place / "families").glob("1-*")
    family.rename(family.with_name(f"{family.name}.0123.partial"))

    files = ["--output_dir", place, "--results", tmp_path / "results.json"]
    run(data, *files, "--report", "true")
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == [KEPT, ANEW]

    run(data, *files, "--processes", 2)
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert again["missing"] == []
    for name in (ANEW, KEPT):
        assert again["cells"][name]["result"] == tiny["cells"][name]["result"]
    for part in ("curves", "criterion", "taken", "agreement"):
        assert again[part] == tiny[part]


@pytest.mark.slow
def test_it_goes_on_from_a_results_file(
    tiny: dict[str, Any], folder: Path, data: Path, tmp_path: Path
) -> None:
    begun = json.loads(json.dumps(tiny))
    del begun["cells"]["family-1"]
    (tmp_path / "begun.json").write_text(json.dumps(begun), encoding="utf-8")

    # The encoder is part of what the cells are of.
    (tmp_path / "encoder").symlink_to(folder / "encoder")
    files = ["--output_dir", tmp_path, "--results", tmp_path / "results.json"]
    run(data, *files, "--continue_from", tmp_path / "begun.json", "--report", "true")
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(again["cells"]) == ["family-0"]  # without the families, nothing else can be told
    assert again["missing"] == ["family-1"]


def arguments(name: str) -> NewLanguageArguments:
    config = str(CONFIGS / f"new_language_{name}.yaml")
    return parse_arguments(NewLanguageArguments, ["--config", config])


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_configuration_is_complete(name: str) -> None:
    args = arguments(name)
    ContinuedPretraining(**args.pretraining)
    HeadTraining(**{key: value for key, value in args.head.items() if key != "lines"})
    for given in (args.options, args.growth):  # what cannot work is an error here
        MetaAdapterTrainingArguments("outputs", report_to="none", **given["training"])
    assert set(args.criterion["steps"]) <= set(args.steps)
    assert {args.criterion["baseline"], *args.criterion["starts"]} == set(STARTS)
    assert args.criterion["seeds"] == len(args.seeds)
    assert len(family_plan(args, "")) == len(args.seeds)


def test_the_small_study_is_what_was_fixed_before_the_runs() -> None:
    settings = yaml.safe_load((CONFIGS / "new_language_small.yaml").read_text("utf-8"))
    assert settings["criterion"] == {
        "baseline": "fresh",
        "starts": ["mean", "nearest", "gradient", "reptile"],
        "steps": [10, 200],
        "margin": 0.02,
        "seeds": 4,
    }
    assert settings["steps"] == [0, 10, 50, 200]
    assert (settings["new"], settings["family"]) == (["fr", "te"], ["en", "ar", "ru", "hi", "sw"])


def family(seed: int, nearest: dict[str, float], gradient: dict[str, float]) -> Any:
    result = {"nearest": {"te": nearest}, "gradient": {"te": gradient}}
    return {"settings": {"seed": seed}, "result": result}


def test_starts_that_are_one_share_a_cell() -> None:
    args = arguments("tiny")
    families = {
        "family-0": family(0, {"en": 2.0, "sw": 3.0}, {"en": 0.3, "sw": -0.5}),
        "family-1": family(1, {"en": 2.0, "sw": 3.0}, {"en": 0.1, "sw": 0.4}),
    }
    plan = growth_plan(args, families, "")
    assert list(plan) == [
        *("te-fresh-0", "te-mean-0", "te-en-0", "te-x-reptile-0"),
        *("te-fresh-1", "te-mean-1", "te-en-1", "te-sw-1", "te-x-reptile-1"),
    ]
    assert [plan[f"te-{key}-1"]["copy_from"] for key in ("fresh", "sw")] == ["", "sw"]

    cells: Any = {
        name: {"result": {"scores": {"0": 5.0, "1": 4.0 + cell["seed"], "2": len(name)}}}
        for name, cell in plan.items()
    }
    report = new_language_report(args, families, cells, head={}, missing=[])
    assert report["taken"] == {"nearest": {"te": {"en": 2}}, "gradient": {"te": {"en": 1, "sw": 1}}}
    assert report["curves"]["gradient"]["te"] == {"seeds": 2, "0": 5.0, "1": 4.5, "2": 7.0}
    assert report["agreement"]["gradient"]["te"] == {"en": 0.2, "sw": -0.05}
    assert "gradient of te: en (1), sw (1)" in new_language_markdown(report)

    del cells["te-mean-1"]
    report = new_language_report(args, families, cells, head={}, missing=["te-mean-1"])
    assert report["criterion"]["verdict"] == "UNFINISHED: 1 of 2 seeds"
    assert report["curves"]["mean"]["te"]["seeds"] == 1
    assert "1 cells are not done yet." in new_language_markdown(report)


def test_a_new_language_is_not_in_the_family() -> None:
    args = arguments("tiny")
    args.new = ["te", "sw"]
    with pytest.raises(ConfigurationError, match=r"Found \['sw'\] in both"):
        family_plan(args, "")


CRITERION: Any = {"baseline": "fresh", "starts": ["a", "b"], "margin": 0.1, "steps": [5, 9]}
GAINS = {"a": {5: 0.5, 9: 0.0}, "b": {5: -0.5, 9: 0.0}}
NOISE = (0.02, -0.015, 0.01, -0.01)


def gain(start: str, step: int, seed: int) -> float:
    """By how many bits per character a start is better than a fresh one, with the seed's noise."""
    return GAINS[start][step] + NOISE[(seed + step) % 4] if start in GAINS else 0.0


def test_the_verdicts() -> None:
    curves: Any = {
        start: {
            language: {
                seed: {str(step): level + seed - gain(start, step, seed) for step in (5, 9)}
                for seed in range(4)
            }
            for language, level in {"fr": 2.0, "te": 3.0}.items()
        }
        for start in ("fresh", "a", "b")
    }
    judged = judge_starts({**CRITERION, "seeds": 4}, curves)
    assert judged["verdict"] == "complete"
    found = {(one["steps"], one["treatment"]): one for one in judged["comparisons"]}
    assert {place: one["found"] for place, one in found.items()} == {
        (5, "a"): "ahead",
        (5, "b"): "behind",
        (9, "a"): "within 0.1",
        (9, "b"): "within 0.1",
    }

    # From scipy, and Holm's procedure by hand.
    tests = {
        place: stats.ttest_1samp([gain(place[1], place[0], seed) for seed in range(4)], 0)
        for place in found
    }
    largest = 0.0
    for rank, place in enumerate(sorted(tests, key=lambda one: tests[one].pvalue)):
        largest = max(largest, min(1.0, (4 - rank) * float(tests[place].pvalue)))
        assert found[place]["p_value"] == pytest.approx(largest)
        interval = tests[place].confidence_interval(0.95)
        assert (found[place]["low"], found[place]["high"]) == pytest.approx(tuple(interval))

    judged = judge_starts({**CRITERION, "seeds": 5}, curves)
    assert judged == {"verdict": "UNFINISHED: 4 of 5 seeds", "comparisons": []}

"""The study of a small language model at its smallest size: the export computes what the family
does, φ alone forgets nothing, it goes on where it was, and its criterion is what was fixed.
"""

import json
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
from hf_meta_adapters.study.small_llm_plan import (
    ARMS,
    SmallLlmArguments,
    small_llm_plan,
    text_and_model,
)
from hf_meta_adapters.study.small_llm_report import judge_small_llm, small_llm_report
from tests.docs import small_llm

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
RECIPE = ROOT / "recipes" / "small_llm_family.py"
ANEW = "added-both-1"


def run(*others: object) -> None:
    """Run the recipe as a user does."""
    config = ["--config", CONFIGS / "small_llm_tiny.yaml"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(one) for one in (RECIPE, *config, *others)])
        runpy.run_path(str(RECIPE), run_name="__main__")


def arguments(name: str) -> SmallLlmArguments:
    return parse_arguments(SmallLlmArguments, ["--config", str(CONFIGS / f"small_llm_{name}.yaml")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> dict[str, Any]:
    """The results file of `small_llm_tiny.yaml`."""
    run("--output_dir", folder, "--results", folder / "results.json")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_what_is_served_is_the_family(tiny: dict[str, Any], folder: Path) -> None:
    family = tiny["family"]
    assert set(family["scores"]) == set(family["base"]) == {"en", "fr", "sw"}
    assert family["scores"] != family["base"]
    assert family["exported"]["scores"] == pytest.approx(family["scores"], abs=1e-5)
    assert max(family["exported"]["largest_logit_difference"].values()) < 1e-5
    assert small_llm.of_family(tiny).count("\n") == 1 + 3  # the page has such a table
    assert family["exported"]["rank"] == 4 + 2

    (served,) = (folder / "served").iterdir()
    adapters = json.loads((served / "languages.json").read_text(encoding="utf-8"))["adapters"]
    assert adapters == {"en": "en", "fr": "fr", "sw": "sw"}


@pytest.mark.slow
def test_an_addition_moves_what_its_arm_says(tiny: dict[str, Any], folder: Path) -> None:
    assert tiny["missing"] == 0
    assert list(tiny["cells"]) == ["family", "start-one", "start-both"] + [
        f"added-{arm}-{seed}" for seed in (0, 1) for arm in ("one", "both", "own")
    ]
    starts = {"one": "one", "both": "both", "own": "both"}
    for arm, start in starts.items():
        for seed in (0, 1):
            result = tiny["cells"][f"added-{arm}-{seed}"]["result"]
            before = tiny["cells"][f"start-{start}"]["result"]["scores"]
            assert result["watched"]["0"] == before["en"]
            assert list(result["watched"]) == ["0", "1", "2"]
            assert result["watched"]["2"] == result["scores"]["en"]

            # With θ frozen, the other languages are what they were; otherwise none is.
            same = {key: result["scores"][key] == before[key] for key in before}
            assert set(same.values()) == {arm == "own"}

    # Seeds are other rows and another new adapter.
    several = [tiny["cells"][f"added-own-{seed}"]["result"]["scores"]["sw"] for seed in (0, 1)]
    assert several[0] != several[1]
    assert tiny["added"]["own"]["forgetting"] == 0
    assert "+0.000" in small_llm.of_addition(tiny).splitlines()[-1]
    assert small_llm.of_comparisons(tiny).count("\n") == 1 + 2
    assert "Criterion: complete." in (folder / "report.md").read_text(encoding="utf-8")
    assert {"command", "versions", "hardware", "seeds", "estimated_minutes"} <= set(tiny)
    assert set(tiny["tokens_per_word"]) == {"en", "fr", "sw"}


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(
    tiny: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "begun")
    (tmp_path / "begun" / "cells" / f"{ANEW}.json").unlink()
    shutil.rmtree(tmp_path / "begun" / "models")  # as on another machine
    run("--output_dir", tmp_path / "begun", "--results", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["cells"][ANEW]["result"] == tiny["cells"][ANEW]["result"]
    for name, cell in tiny["cells"].items():
        if name != ANEW:
            assert again["cells"][name] == cell  # also in its seconds: it was not computed anew


def cell(watched: float, added: float, before: float = 1.0) -> dict[str, Any]:
    scores = {"en": watched, "sw": added}
    return {"result": {"scores": scores, "watched": {"0": before, "2": watched}}}


def test_comparisons_are_paired_over_seeds_and_adjusted_together() -> None:
    args = SmallLlmArguments(added="sw", seeds=[0, 1, 2])
    args.criterion = {"comparisons": [["both", "one", "forgetting"], ["own", "one", "learning"]]}
    forgot = {"one": [1.5, 1.6, 1.4], "both": [1.2, 1.25, 1.15], "own": [1.0, 1.0, 1.0]}
    learned = {"one": [2.0, 2.1, 2.2], "both": [2.0, 2.1, 2.2], "own": [2.1, 2.3, 2.25]}
    cells: Any = {
        f"added-{arm}-{seed}": cell(forgot[arm][seed], learned[arm][seed])
        for arm in ARMS
        for seed in args.seeds
    }
    judged = judge_small_llm(args, cells)
    first, second = judged["compared"]
    raw = [
        stats.ttest_rel(forgot["one"], forgot["both"]).pvalue,
        stats.ttest_rel(learned["one"], learned["own"]).pvalue,
    ]
    assert raw[0] < raw[1]  # so that Holm's procedure doubles the first, and keeps the second
    assert first["p_value"] == pytest.approx(2 * raw[0])
    assert second["p_value"] == pytest.approx(max(2 * raw[0], raw[1]))
    assert first["mean"] == pytest.approx(0.3)
    assert second["mean"] == pytest.approx(-(0.1 + 0.2 + 0.05) / 3)
    assert (first["holds"], second["holds"]) == (True, False)

    # The cells of a seed are compared together or not at all.
    del cells["added-own-1"]
    assert judge_small_llm(args, cells)["verdict"] == "UNFINISHED: 2 of 3 seeds"
    report = small_llm_report(args, cells, missing=1)
    assert report["added"]["own"]["seeds"] == 2
    assert report["added"]["one"]["forgetting"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["tiny", "family"])
def test_a_configuration_is_complete(name: str) -> None:
    args = arguments(name)
    cells = small_llm_plan(args, "")
    assert len(cells) == 3 + 3 * len(args.seeds)
    for one in cells.values():  # what cannot work is an error before any training
        MetaAdapterTrainingArguments("outputs", report_to="none", **one["training"])
    assert args.watched in args.start
    assert args.added not in args.start
    assert args.watched_at[-1] == args.added_steps


def test_the_study_is_what_was_fixed_before_the_runs() -> None:
    text = (CONFIGS / "small_llm_family.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["criterion"]["comparisons"] == [
        ["both", "one", "forgetting"],
        ["own", "one", "forgetting"],
        ["both", "one", "learning"],
        ["own", "one", "learning"],
    ]


def test_other_text_or_another_model_makes_other_cells(tmp_path: Path) -> None:
    for language in ("en", "sw"):
        for split in ("train", "test"):
            place = tmp_path / language / f"{split}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text(f"{language} {split}\n", encoding="utf-8")
    data = str(tmp_path)
    first = text_and_model(data, ["en", "sw"], "a/model")
    assert first == text_and_model(data, ["en", "sw"], "a/model")
    others = {
        text_and_model(data, ["en", "sw"], "another"),
        text_and_model(data, ["en"], "a/model"),
    }
    (tmp_path / "sw" / "test.txt").write_text("other\n", encoding="utf-8")
    others.add(text_and_model(data, ["en", "sw"], "a/model"))
    assert len({first, *others}) == 4

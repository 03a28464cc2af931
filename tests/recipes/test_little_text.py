"""The study of little text at its smallest size: it goes on from its results file, in one process
or two, chooses on selection text, and judges by the criterion that its configuration fixes.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.study.cells_file import take_over_cells, write_cells
from hf_meta_adapters.study.criterion import judge
from hf_meta_adapters.study.little_text_arms import ARMS, REGULARIZERS, arm_options
from hf_meta_adapters.study.little_text_plan import (
    LittleTextArguments,
    best_trials,
    study_plan,
    trial_plan,
)
from tests.docs import little_data

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
LEFT_OUT = ["poor-20-next_1-1", "poor-20-random_1-0", "trial-sharpness-1-20-1000"]
OTHER = "poor-20-joint-0"


def run(*arguments: object) -> str:
    """Run the recipe as a user does, in the project's folder; return what it printed."""
    config = CONFIGS / "little_text_tiny.yaml"
    command = [sys.executable, "recipes/little_text_study.py", "--config", config, *arguments]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results file of `little_text_tiny.yaml`."""
    folder = tmp_path_factory.mktemp("tiny")
    printed = run("--output_dir", folder, "--results", folder / "results.json")
    assert printed.endswith((folder / "report.md").read_text(encoding="utf-8"))
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def scores(results: dict[str, Any]) -> dict[str, Any]:
    return {name: cell["result"] for name, cell in results["cells"].items()}


@pytest.mark.slow
def test_the_smallest_study_has_every_cell_and_a_verdict(tiny: dict[str, Any]) -> None:
    assert len(tiny["cells"]) == 4 + 16
    assert tiny["missing"] == 0
    for name, result in scores(tiny).items():
        trial = name.startswith("trial")
        for several in result["scores"].values():
            assert all(map(math.isfinite, several.values()))
            assert bool(several) != trial  # a trial sees no test text
        steps = result["selection"]
        assert list(steps) == ["2", "4"]
        assert steps[str(result["best_step"])] == min(steps.values())
    assert {"command", "versions", "hardware", "seeds", "estimated_hours", "hours"} <= set(tiny)
    assert tiny["criterion"]["verdict"] in ("holds", "fails")
    assert len(tiny["criterion"]["comparisons"]) == 3
    assert tiny["means"]["poor, 20 rows"]["next_1"]["seeds"] == 2
    for arm, trials in tiny["tuning"].items():
        best = min(trials, key=lambda trial: trial["bits_per_character"])
        assert tiny["tuned"][arm] == best["options"]
        assert (
            tiny["cells"][f"poor-20-{arm}-0"]["settings"]["options"].items()
            >= {name: value for name, value in best["options"].items() if name == "radius"}.items()
        )
    assert str(ROOT.parent) not in json.dumps(tiny["cells"])

    # The page about little data reads such a file.
    assert little_data.answer(tiny)[1] == f"{len(tiny['cells'])} of {len(tiny['cells'])}"
    assert "| `next_1` | " in little_data.text_arms(tiny)


@pytest.mark.slow
def test_it_goes_on_from_a_results_file_and_two_processes_compute_the_same(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    begun = json.loads(json.dumps(tiny))
    for name in LEFT_OUT:
        del begun["cells"][name]
    begun["cells"][OTHER]["settings"]["seed"] = 5  # of another setting: it must not count
    begun["cells"][OTHER]["result"] = {}
    (tmp_path / "begun.json").write_text(json.dumps(begun), encoding="utf-8")

    files = ["--output_dir", tmp_path, "--results", tmp_path / "results.json"]
    printed = run(*files, "--continue_from", tmp_path / "begun.json", "--processes", 2)
    assert f"1 cells there have other settings and do not count: {OTHER}" in printed
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert scores(again) == scores(tiny)
    for name, cell in again["cells"].items():
        if name not in (*LEFT_OUT, OTHER):
            assert cell == tiny["cells"][name]  # also in its seconds: it was not computed anew


@pytest.mark.slow
def test_a_report_computes_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    begun = json.loads(json.dumps(tiny))
    del begun["cells"]["poor-20-next_1-1"]
    (tmp_path / "begun.json").write_text(json.dumps(begun), encoding="utf-8")

    files = ["--output_dir", tmp_path, "--results", tmp_path / "results.json"]
    printed = run(*files, "--continue_from", tmp_path / "begun.json", "--report", "true")
    assert "1 cells are not done yet." in printed
    assert "Criterion: UNFINISHED: 1 of 2 seeds at 20 rows." in printed
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert again["cells"] == begun["cells"]


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_configuration_is_complete(name: str) -> None:
    path = CONFIGS / f"little_text_{name}.yaml"
    args = parse_arguments(LittleTextArguments, ["--config", str(path)])
    tuned = {arm: trials[0] for arm, trials in args.trials.items()}
    assert {len(trials) for trials in args.trials.values()} == {len(args.trials["dropout"])}
    assert set(args.criterion["rivals"]) == set(args.trials)
    digests = dict.fromkeys(args.scenarios, "")
    for cells in (study_plan(args, tuned, digests), trial_plan(args, digests)):
        for cell in cells.values():  # what cannot work is an error before any training
            given = cell["options"]["training"]
            MetaAdapterTrainingArguments("outputs", report_to="none", **given)

    # The arms of the criterion come first, seed by seed.
    cells = study_plan(args, tuned, digests)
    criterion = args.criterion
    arms = {criterion["treatment"], criterion["baseline"], *criterion["rivals"]}
    first = list(cells.values())[: len(arms) * len(criterion["rows"]) * criterion["seeds"]]
    assert {cell["arm"] for cell in first} == arms
    assert [cell["seed"] for cell in first] == sorted(cell["seed"] for cell in first)
    assert not set(args.trial_block["seeds"]) & {cell["seed"] for cell in cells.values()}


def test_the_small_study_is_what_was_fixed_before_the_runs() -> None:
    text = (CONFIGS / "little_text_small.yaml").read_text(encoding="utf-8")
    criterion = yaml.safe_load(text)["criterion"]
    assert criterion == {
        "scenario": "poor",
        "rows": [100, 300],
        "treatment": "next_1",
        "baseline": "adapters",
        "rivals": list(REGULARIZERS),
        "margin": 0.01,
        "seeds": 8,
    }


def test_arms_are_combined_group_by_group() -> None:
    common = {"sizes": {"hidden_size": 64}, "training": {"learning_rate": 0.1}}
    tuned = {"dropout": {"sizes": {"hidden_dropout_prob": 0.2}}, "sharpness": {"radius": 0.5}}
    both = arm_options("flipped_1+dropout", common, tuned)
    assert both["sizes"] == {"hidden_size": 64, "hidden_dropout_prob": 0.2}
    expected = {"learning_rate": 0.1, "lookahead": "next", "indirect_ratio": 1.0}
    assert (both["trainer"], both["training"]) == ("flipped", expected)
    assert arm_options("sharpness", common, tuned)["radius"] == 0.5
    assert not arm_options("joint", common, tuned)["own"]
    for wrong in ("next", "next_1+next_2", "+dropout"):
        with pytest.raises(ConfigurationError, match=f"Found '{wrong.replace('+', '.')}'"):
            arm_options(wrong, common, tuned)
    assert set(REGULARIZERS) < set(ARMS)


def made(arm: str, seed: int, rows: int, final: float, **other: float) -> dict[str, Any]:
    """A cell of two languages, whose mean is `final`."""
    early, selection = other.get("early", final), other.get("selection", final)
    settings = {"arm": arm, "seed": seed, "scenario": "poor", "test_rows": 9}
    by_language = {"mlm": {"en": final - 1, "sw": final + 1}}
    by_language["mlm_early"] = {"en": early - 1, "sw": early + 1}
    steps = {"10": other.get("early_selection", early), "20": selection}
    return {
        "settings": {**settings, "rows": {"en": rows, "sw": rows}},
        "result": {"scores": by_language, "selection": steps, "best_step": 20},
    }


CRITERION = {
    "scenario": "poor",
    "rows": [100, 300],
    "treatment": "next_1",
    "baseline": "adapters",
    "rivals": ["dropout", "smaller"],
    "margin": 0.05,
    "seeds": 4,
}


def study(gain: float) -> list[dict[str, Any]]:
    """Four seeds; the treatment is better than all others by `gain`, up to noise."""
    cells = []
    for rows in (100, 300):
        for seed in range(4):
            noise = 0.003 * math.sin(10 * seed + rows)
            cells.append(made("adapters", seed, rows, 3.3 + 0.1 * seed))
            cells.append(made("dropout", seed, rows, 3.3 + 0.1 * seed, selection=3.0, early=3.2))
            # Better than dropout on test text, worse on selection text: not the best rival.
            cells.append(made("smaller", seed, rows, 1.0, selection=9.0, early_selection=9.0))
            own = 3.3 + 0.1 * seed - gain - noise
            cells.append(made("next_1", seed, rows, own, early=3.2 - noise))
    return cells


def test_the_criterion_holds_if_all_comparisons_do() -> None:
    judged = judge(CRITERION, study(0.1))  # type: ignore[arg-type]
    assert judged["verdict"] == "holds"
    assert len(judged["comparisons"]) == 6
    assert [one["baseline"] for one in judged["comparisons"]] == ["adapters", *["dropout"] * 2] * 2

    # Holm's procedure over all six, from scipy's tests.
    noises = {
        rows: [0.003 * math.sin(10 * seed + rows) for seed in range(4)] for rows in (100, 300)
    }
    p_values = []
    for rows in (100, 300):
        for shift in (0.1, 0.1, CRITERION["margin"]):
            p_values.append(stats.ttest_1samp([shift + one for one in noises[rows]], 0).pvalue)
    ordered = sorted(p_values)
    adjusted = {
        p: max((6 - rank) * q for rank, q in enumerate(ordered) if q <= p) for p in p_values
    }
    for one, p in zip(judged["comparisons"], p_values, strict=True):
        assert one["p_value"] == pytest.approx(adjusted[p])


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_the_criterion_fails_if_one_comparison_does(gain: float) -> None:
    judged = judge(CRITERION, study(gain))  # type: ignore[arg-type]
    assert judged["verdict"] == "fails"
    assert [one["holds"] for one in judged["comparisons"]] == [False, False, True] * 2


def test_the_criterion_waits_for_its_seeds() -> None:
    cells = study(0.1)[:-1]
    judged = judge(CRITERION, cells)  # type: ignore[arg-type]
    assert judged == {"verdict": "UNFINISHED: 3 of 4 seeds at 300 rows", "comparisons": []}


def test_trials_are_compared_on_selection_text_at_the_last_step() -> None:
    args = LittleTextArguments(
        trials={"sharpness": [{"radius": 1}, {"radius": 2}]},
        trial_block={"scenario": "poor", "rows": [5], "seeds": [7, 8]},
        scenarios={"poor": {"data": "", "poor": ["sw"]}},
    )
    cells = trial_plan(args, {"poor": ""})
    assert {cell["test_rows"] for cell in cells.values()} == {0}
    last = dict(zip(cells, (3.0, 1.0, 2.0, 2.5), strict=True))  # seed by seed
    computed = {name: {"result": {"selection": {"1": 0.0, "2": last[name]}}} for name in cells}
    best, record = best_trials(args, computed)  # type: ignore[arg-type]
    assert best == {"sharpness": {"radius": 2}}
    assert [one["bits_per_character"] for one in record["sharpness"]] == [2.5, 1.75]


def computed(n: int) -> dict[str, Any]:
    return {
        "settings": {"n": n, "of": "squares"},
        "result": {"square": n**2},
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "machine": "a computer",
    }


def test_cells_come_back_from_their_file_and_stale_ones_do_not(tmp_path: Path) -> None:
    cells = {f"cell{n}": computed(n) for n in range(3)}
    write_cells(tmp_path / "all.json", {"about": "squares"}, cells)
    content = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert (content["about"], content["common_settings"]) == ("squares", {"of": "squares"})

    wanted = {name: cell["settings"] for name, cell in cells.items()}
    wanted["cell1"] = {"n": 1, "of": "cubes"}
    wanted["cell3"] = {"n": 3, "of": "squares"}
    (tmp_path / "cell2.json").write_text("kept", encoding="utf-8")
    assert take_over_cells(tmp_path / "all.json", wanted, tmp_path) == (["cell1"], ["cell0"])
    taken = json.loads((tmp_path / "cell0.json").read_text(encoding="utf-8"))
    assert taken == cells["cell0"]
    assert (tmp_path / "cell2.json").read_text(encoding="utf-8") == "kept"
    assert not (tmp_path / "cell1.json").exists()

    assert take_over_cells(tmp_path / "none.json", wanted, tmp_path) == ([], [])
    (tmp_path / "all.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="Restore it, or delete it"):
        take_over_cells(tmp_path / "all.json", wanted, tmp_path)

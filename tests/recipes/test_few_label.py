"""The study of few labels at its smallest size: it goes on from its results file, chooses on
selection data, and judges by the criterion that its configuration fixes.
"""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.few_label_arms import FEW_LABEL_ARMS, few_label_options
from hf_meta_adapters.study.few_label_criterion import judge_few_labels
from hf_meta_adapters.study.few_label_plan import (
    FewLabelArguments,
    best_of_trials,
    chosen_arms,
    few_label_plan,
    labels_digest,
    selection_plan,
)
from hf_meta_adapters.study.few_label_report import few_label_means
from tests.docs import little_data

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
OTHER = "pos-4-joint-0"


def run(data: Path, *arguments: object) -> None:
    """Run the recipe as a user does."""
    config = ["--config", CONFIGS / "few_label_tiny.yaml", "--data", data]
    path = ROOT / "recipes" / "few_label_study.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(one) for one in (path, *config, *arguments)])
        runpy.run_path(str(path), run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path, shared_data: Path) -> dict[str, Any]:
    """The results file of `few_label_tiny.yaml`."""
    run(shared_data, "--output_dir", folder, "--results", folder / "results.json")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_smallest_study_has_every_cell_and_a_verdict(
    tiny: dict[str, Any], folder: Path
) -> None:
    trials = [name for name in tiny["cells"] if name.startswith("trial")]
    assert list(tiny["cells"])[: len(trials)] == trials  # choices come first, and say so
    assert "before any test cell" in tiny["chosen_before_test"]
    assert tiny["missing"] == 0
    assert "Criterion: " in (folder / "report.md").read_text(encoding="utf-8")
    for name, cell in tiny["cells"].items():
        assert (cell["settings"].get("split") == "dev") == (name in trials)
        assert all(map(math.isfinite, cell["result"]["scores"].values()))
        assert "en" in cell["result"]["scores"]
    assert {"command", "versions", "hardware", "seeds", "estimated_hours", "hours"} <= set(tiny)
    assert tiny["criterion"]["verdict"] in ("ahead", "no gain of 0.01", "open")
    assert len(tiny["criterion"]["comparisons"]) == 1
    assert tiny["means"]["pos, 4 labels"]["source_only"]["seeds"] == 1
    assert tiny["means"]["nli, 4 labels"]["adapters"]["seeds"] == 1
    compared = tiny["criterion"]["comparisons"][0]
    assert tiny["chosen"]["pos"] == {
        "best_treatment": compared["treatment"],
        "best_rival": compared["baseline"],
    }
    assert str(ROOT.parent) not in json.dumps(tiny["cells"])

    # The page about little data reads such a file.
    assert little_data.answer(tiny)[1] == f"{len(tiny['cells'])} of {len(tiny['cells'])}"
    assert f"| pos | 4 | `{compared['treatment']}` |" in little_data.comparisons(tiny)
    assert "| pos | `source_only` | 4 |" in little_data.curves(tiny)


@pytest.mark.slow
def test_it_goes_on_from_a_results_file_and_a_report_computes_nothing(
    tiny: dict[str, Any], folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    begun = json.loads(json.dumps(tiny))
    del begun["cells"][OTHER]
    (tmp_path / "begun.json").write_text(json.dumps(begun), encoding="utf-8")

    # The encoder is part of what the cells are of.
    (tmp_path / "encoder").symlink_to(folder / "encoder")
    files = ["--output_dir", tmp_path, "--results", tmp_path / "results.json"]
    files += ["--continue_from", tmp_path / "begun.json"]
    run(shared_data, *files, "--report", "true")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "1 cells are not done yet." in report
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert again["cells"] == begun["cells"]

    run(shared_data, *files)
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert again["cells"][OTHER]["result"] == tiny["cells"][OTHER]["result"]
    assert again["means"].keys() == tiny["means"].keys()


def arguments(name: str) -> FewLabelArguments:
    return parse_arguments(FewLabelArguments, ["--config", str(CONFIGS / f"few_label_{name}.yaml")])


@pytest.mark.parametrize("name", ["tiny", "small", "gpu"])
def test_a_configuration_is_complete(name: str) -> None:
    args = arguments(name)
    compared = {*args.criterion["treatments"], *args.criterion["rivals"]}
    assert compared <= set(args.trials) <= set(FEW_LABEL_ARMS)
    digests = dict.fromkeys(args.tasks, "")
    tuned = {
        task: {arm: trials[0] for arm, trials in args.trials.items()}
        for task in args.trial_block["tasks"]
    }
    trials = selection_plan(args, digests)
    assert {cell["split"] for cell in trials.values()} == {"dev"}

    for treatment in args.criterion["treatments"]:
        chosen = {"best_treatment": treatment, "best_rival": args.criterion["rivals"][0]}
        cells = few_label_plan(args, tuned, dict.fromkeys(tuned, chosen), digests)
        for cell in (*cells.values(), *trials.values()):  # what cannot work is an error here
            given = cell["options"]["training"]
            MetaAdapterTrainingArguments("outputs", report_to="none", **given)
        assert {cell["split"] for cell in cells.values()} == {"test"}
        assert not set(args.trial_block["seeds"]) & {cell["seed"] for cell in cells.values()}

        # The cells of the criterion come first.
        criterion = args.criterion
        places = len(criterion["tasks"]) * len(criterion["shots"])
        first = list(cells.values())[: 2 * places * criterion["seeds"]]
        assert {cell["arm"] for cell in first} == set(chosen.values())
        assert {cell["task"] for cell in first} == set(criterion["tasks"])


def test_the_small_study_is_what_was_fixed_before_the_runs() -> None:
    text = (CONFIGS / "few_label_small.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    assert settings["criterion"] == {
        "tasks": ["pos"],  # NER was in it: the configuration says why it is not any more
        "shots": [10, 20, 50],
        "treatments": ["next", "fast", "exact"],
        "rivals": ["two_stages", "adapters"],
        "margin": 0.01,
        "seeds": 8,
    }
    trials = settings["trials"]
    assert {len(trials[arm]) for arm in trials if arm != "projected"} == {5}


def test_arms_are_combined() -> None:
    common = {"learning_rate": 0.1, "training": {"use_cpu": True}}
    tuned = {"fast": {"target_role": "both", "training": {"adapter_update": "meta+train"}}}
    fast = few_label_options("fast+rate_0.0333", common, tuned)
    held = {"preset": "fast", "indirect_ratio": 1.0}
    chosen = {"use_cpu": True, "adapter_update": "meta+train"}
    assert fast["training"] == {**held, **chosen}
    assert (fast["learning_rate"], fast["adapter_rate"]) == (0.1, 0.0333)
    direct = few_label_options("fast+direct", common, tuned)["training"]
    assert direct == {"preset": "fast", "meta_gradient": "first_order", **chosen}
    assert not few_label_options("joint", common, tuned)["own"]
    for wrong in ("slow", "adapters+direct", "fast+rate_", "fast+rate_x", "fast+next"):
        with pytest.raises(ConfigurationError, match="An arm must be one of"):
            few_label_options(wrong, common, tuned)


def computed(task: str, shots: int, arm: str, seed: int, mean: float, **other: Any) -> Any:
    """A cell of a source and two targets, whose mean is `mean`."""
    settings = {"task": task, "shots": shots, "arm": arm, "seed": seed, "source": "en"}
    scores = {"en": 9.0, "sw": mean - 0.1, "hi": mean + 0.1}
    return {
        "settings": {**settings, "split": "test", **other},
        "result": {"scores": scores},
        "cpu_seconds": 2.0,
    }


CRITERION: Any = {
    "tasks": ["pos"],
    "shots": [10, 20],
    "treatments": ["next", "fast"],
    "rivals": ["two_stages", "adapters"],
    "margin": 0.01,
    "seeds": 4,
}
CHOSEN = {"pos": {"best_treatment": "next", "best_rival": "two_stages"}}


def study(*gains: float, spread: float = 0.003) -> list[Any]:
    """Four seeds; `next` is better than two stages by these gains, up to noise."""
    cells = []
    for shots, gain in zip((10, 20), gains, strict=True):
        for seed in range(4):
            noise = spread * math.sin(10 * seed + shots)
            level = 0.6 + 0.05 * seed
            cells.append(computed("pos", shots, "two_stages", seed, level))
            cells.append(computed("pos", shots, "next", seed, level + gain + noise))
            # Better on test data than what was chosen on selection data: it does not count.
            cells.append(computed("pos", shots, "adapters", seed, 2.0))
            cells.append(computed("pos", shots, "two_stages", seed, 7.0, split="dev"))
    return cells


@pytest.mark.parametrize(
    ("gains", "spread", "verdict"),
    [
        ((0.05, 0.0), 0.003, "ahead"),
        ((0.0, -0.05), 0.003, "no gain of 0.01"),
        ((-0.05, 0.0), 0.03, "open"),
    ],
)
def test_the_verdict(gains: tuple[float, float], spread: float, verdict: str) -> None:
    judged = judge_few_labels(CRITERION, CHOSEN, study(*gains, spread=spread))
    assert judged["verdict"] == verdict

    # From scipy, and Holm's procedure by hand.
    found = []
    for shots, gain in zip((10, 20), gains, strict=True):
        several = [gain + spread * math.sin(10 * seed + shots) for seed in range(4)]
        found.append(stats.ttest_1samp(several, 0))
    smaller, larger = sorted(one.pvalue for one in found)
    adjusted = {smaller: min(1, 2 * smaller), larger: max(min(1, 2 * smaller), larger)}
    for one, test in zip(judged["comparisons"], found, strict=True):
        interval = test.confidence_interval(0.95)
        assert (one["low"], one["high"]) == pytest.approx(tuple(interval))
        assert one["p_value"] == pytest.approx(adjusted[test.pvalue])
        assert (one["treatment"], one["baseline"]) == ("next", "two_stages")


def test_the_criterion_waits_for_its_seeds_and_for_the_choice() -> None:
    judged = judge_few_labels(CRITERION, CHOSEN, study(0.1, 0.1)[:-4])
    assert judged["verdict"] == "UNFINISHED: 3 of 4 seeds of pos, 20 labels"
    assert judge_few_labels(CRITERION, {}, [])["verdict"].startswith("UNFINISHED: 0 of 4")


def test_choices_are_made_on_the_targets_of_the_trials() -> None:
    args = FewLabelArguments(
        tasks={"pos": {"targets": ["sw", "hi"]}, "nli": {"targets": ["sw"], "steps": 7}},
        trials={
            "next": [{"learning_rate": 1}, {"learning_rate": 2}],
            "fast": [{}],
            "adapters": [{}],
        },
        trial_block={"tasks": ["pos"], "targets": ["sw", "hi"], "shots": 5, "seeds": [7, 8]},
        criterion={**CRITERION, "rivals": ["adapters"]},
        plan={
            "a": {
                "tasks": ["pos", "nli"],
                "shots": [3, 5],
                "seeds": [0],
                "arms": ["source_only", "best_treatment"],
            }
        },
    )
    digests = {"pos": "p", "nli": "n"}
    cells = selection_plan(args, digests)
    assert [cell["seed"] for cell in cells.values()] == [7] * 4 + [8] * 4
    means = dict(zip(cells, (0.4, 0.6, 0.55, 0.9, 0.4, 0.1, 0.44, 0.1), strict=True))
    done = {
        name: computed("pos", 5, cell["arm"], cell["seed"], means[name])
        for name, cell in cells.items()
    }
    tuned, record = best_of_trials(args, done)
    assert tuned["pos"]["next"] == {"learning_rate": 1}
    assert [one["score"] for one in record["pos"]["next"]] == [0.4, 0.35]
    chosen = chosen_arms(args, record)
    assert chosen == {"pos": {"best_treatment": "fast", "best_rival": "adapters"}}

    plan = few_label_plan(args, tuned, chosen, digests)
    assert list(plan) == [
        *("pos-0-source_only-0", "pos-3-fast-0", "pos-5-fast-0"),
        *("nli-0-source_only-0", "nli-3-fast-0", "nli-5-fast-0"),
    ]
    assert (plan["nli-3-fast-0"]["steps"], plan["pos-3-fast-0"]["steps"]) == (7, args.steps)
    assert plan["nli-3-fast-0"]["languages"] == ["en", "sw"]
    with pytest.raises(ConfigurationError, match="Found no task in `trial_block`"):
        few_label_plan(args, {}, {}, digests)


def test_means_are_those_of_the_targets_and_differences_of_common_seeds() -> None:
    cells = [computed("pos", 10, "adapters", seed, 0.5) for seed in range(3)]
    cells += [computed("pos", 10, "next", seed, 0.5 + 0.1 * seed) for seed in range(2)]
    cells += [computed("pos", 0, "source_only", 0, 0.3)]
    means = few_label_means(cells, "pos", 10)
    assert means["adapters"] == {"seeds": 3, "targets": 0.5, "source": 9.0, "cpu_seconds": 2}
    assert (means["next"]["targets"], means["next"]["better"]) == (0.55, 0.05)
    assert means["next"]["low"] < 0.05 < means["next"]["high"]
    assert means["source_only"]["targets"] == 0.3
    assert "better" not in means["source_only"]


def test_other_data_and_another_model_have_another_digest(tmp_path: Path) -> None:
    def digest() -> str:
        return labels_digest(str(tmp_path), "pos", ["en", "sw"], str(tmp_path / "model"))

    for name in ("pos/en/train.jsonl", "pos/sw/test.jsonl", "model/tokenizer.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = {digest()}
    for name in ("pos/en/train.jsonl", "pos/sw/test.jsonl", "model/tokenizer.json"):
        (tmp_path / name).write_text("another")
        found.add(digest())
    (tmp_path / "pos" / "sw" / "test.jsonl").rename(tmp_path / "pos" / "sw" / "dev.jsonl")
    found.add(digest())
    assert len(found) == 5
    assert labels_digest(str(tmp_path), "pos", ["en"], "a") != labels_digest(
        str(tmp_path), "pos", ["en"], "b"
    )

"""The study of a pretrained model at its smallest size: it goes on where it was killed, in one
process or two, chooses on selection data, and its configurations are complete.
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

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.continued_pretraining import ContinuedPretraining
from hf_meta_adapters.study.masked_word_head import HeadTraining
from hf_meta_adapters.study.pretrained_arms import PRETRAINED_ARMS, pretrained_options
from hf_meta_adapters.study.pretrained_plan import (
    PretrainedArguments,
    best_options,
    inputs_digest,
    pretrained_plan,
    pretrained_trials,
)
from tests.docs.pretrained_tables import compared, details, second_setting, verdict

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
RECIPE = ROOT / "recipes" / "pretrained_study.py"
ANEW = "pos-zero-shot-meta_next-1"
KEPT = "pos-zero-shot-joint-0"


@pytest.fixture(scope="module")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first lines of the real data: whole files would take longer to read than the study."""
    folder = tmp_path_factory.mktemp("data")
    for kind, languages in {"text": "en sw te", "pos": "en sw te", "nli": "en sw"}.items():
        names = ["train.txt.gz"] if kind == "text" else ["train", "dev", "test"]
        for language in languages.split():
            for name in names:
                name = name if kind == "text" else f"{name}.jsonl.gz"
                with gzip.open(shared_data / kind / language / name, "rt") as file:
                    lines = [line for _, line in zip(range(50), file, strict=False)]
                place = folder / kind / language / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with gzip.open(place, "wt") as file:
                    file.writelines(lines)
    return folder


def run(data: Path, *others: object) -> None:
    """Run the recipe as a user does."""
    config = ["--config", CONFIGS / "pretrained_tiny.yaml", "--data", data]
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
    """The results file of `pretrained_tiny.yaml`."""
    run(data, "--output_dir", folder, "--results", folder / "results.json")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_smallest_study_has_every_cell_and_a_verdict(
    tiny: dict[str, Any], folder: Path
) -> None:
    trials = [name for name in tiny["cells"] if name.startswith("trial")]
    assert list(tiny["cells"])[: len(trials)] == trials  # choices come first, and say so
    assert "before any test cell" in tiny["chosen_before_test"]
    assert tiny["missing"] == []
    assert "Criterion: complete." in (folder / "report.md").read_text(encoding="utf-8")
    for name, cell in tiny["cells"].items():
        own = {**tiny["common_settings"], **cell["settings"]}
        assert (own["split"] == "dev") == (name in trials)
        for variants in cell["result"]["scores"].values():
            for by_language in variants.values():
                assert {len(scores) for scores in by_language.values()} == {
                    len(own["finetuning_seeds"])
                }
                assert all(math.isfinite(one) for scores in by_language.values() for one in scores)

        # Seeds of fine-tuning are those of this seed of pretraining alone.
        assert {seed // 100 for seed in own["finetuning_seeds"]} == {own["seed"]}

    comparisons = tiny["criterion"]["comparisons"]
    assert [(one["treatment"], one["baseline"]) for one in comparisons] == [
        *(("joint", "none"), ("meta_next", "joint"))
    ]
    assert list(tiny["hours_by_block"]) == ["trials", *arguments("tiny").plan]
    assert sum(tiny["hours_by_block"].values()) == pytest.approx(tiny["hours"], abs=0.02)
    assert min(tiny["hours_by_block"].values()) >= 0
    assert tiny["head"]["after"] < tiny["head"]["before"]
    pos = tiny["zero_shot"]["pos"]
    assert set(pos["joint"]["variants"]) == {"target"}  # there is no φ to put in its place
    assert set(pos["meta_fast"]["variants"]) == {"target", "source", "no", "mean"}
    assert set(pos["meta_paper"]["languages"]) == {"en", "sw", "te"}
    assert set(tiny["zero_shot"]["nli"]["meta_next"]["languages"]) == {"en", "sw"}
    assert set(tiny["within"]["pos"]["none"]["languages"]) == {"te"}
    assert tiny["pretraining"]["meta_next"]["meta_indirect_ratio"] == pytest.approx(0.5)
    assert "loss" not in tiny["pretraining"]["none"]
    assert str(ROOT.parent) not in json.dumps(tiny["cells"])


@pytest.mark.slow
def test_text_and_tables_of_the_page_are_made_from_a_results_file(tiny: dict[str, Any]) -> None:
    tables = [part for part in details(tiny).split("\n\n") if part.startswith("| ")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1

    assert second_setting(tiny).startswith(verdict(tiny))
    text = " ".join(verdict(tiny).split())
    one = tiny["criterion"]["comparisons"][0]
    assert f"{100 * one['mean']:+.1f} points" in text
    assert f"the encoder as it is {100 * tiny['zero_shot']['pos']['none']['targets']:.1f}" in text
    unfinished = {**tiny["criterion"], "verdict": "UNFINISHED: 1 of 2 seeds", "comparisons": []}
    text = verdict({**tiny, "criterion": unfinished})
    assert text == (
        "The study is not complete yet, and decides nothing: 1 of 2 seeds have every method."
    )


def test_a_sentence_says_what_a_comparison_found() -> None:
    one = {"treatment": "joint", "baseline": "none", "mean": -0.021, "low": -0.03, "high": -0.012}
    one |= {"p_value": 0.0123, "detectable": 0.0149}
    sentences = [
        " ".join(compared({**one, "found": found}, 0.005).split())
        for found in ("ahead", "behind", "within 0.005", "open")
    ]
    assert [sentence.split(":")[0] for sentence in sentences] == [
        "- **joint training is better than the encoder as it is**",
        "- **joint training is worse than the encoder as it is**",
        "- Joint training and the encoder as it is are within ±0.5 points of each other",
        "- Joint training cannot be told from the encoder as it is",
    ]
    assert "-2.1 points (95 % interval -3.0 to -1.2, p = 0.012)" in sentences[1]
    assert "of 1.5 would" in sentences[3]


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
    # One was killed while it was trained further, the other one in fine-tuning.
    (model,) = (place / "models").glob("meta_next-1-*")
    model.rename(model.with_name(f"{model.name}.0123.partial"))

    files = ["--output_dir", place, "--results", tmp_path / "results.json"]
    run(data, *files, "--report", "true")
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == [KEPT, ANEW]

    run(data, *files, "--processes", 2)
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert again["missing"] == []
    for name in (ANEW, KEPT):
        for part in ("scores", "pretraining", "majority"):
            assert again["cells"][name]["result"][part] == tiny["cells"][name]["result"][part]
    assert again["criterion"]["comparisons"] != []
    assert again["zero_shot"] == tiny["zero_shot"]


def arguments(name: str) -> PretrainedArguments:
    config = str(CONFIGS / f"pretrained_{name}.yaml")
    return parse_arguments(PretrainedArguments, ["--config", config])


@pytest.mark.parametrize("name", ["tiny", "small", "gpu"])
def test_a_configuration_is_complete(name: str) -> None:
    args = arguments(name)
    ContinuedPretraining(**args.pretraining)
    HeadTraining(**{key: value for key, value in args.head.items() if key != "lines"})
    assert set(args.low_resource) < set(args.targets)

    trials = pretrained_trials(args, "")
    assert {cell["split"] for cell in trials.values()} == {"dev"}
    tuned = {arm: several[-1] for arm, several in args.trials.items()}
    cells = pretrained_plan(args, tuned, "")
    assert {cell["split"] for cell in cells.values()} == {"test"}
    for cell in (*cells.values(), *trials.values()):  # what cannot work is an error here
        training = cell["options"]["training"]
        MetaAdapterTrainingArguments("outputs", report_to="none", **training)

    seeds = {
        seed
        for cell in (*cells.values(), *trials.values())
        for seed in (cell["seed"], *cell["finetuning_seeds"])
    }
    chosen = {
        seed for cell in trials.values() for seed in (cell["seed"], *cell["finetuning_seeds"])
    }
    assert chosen < seeds
    assert not chosen & {cell["seed"] for cell in cells.values()}

    # The cells of the criterion come first, seed by seed.
    criterion = args.criterion
    arms = {arm for pair in criterion["comparisons"] for arm in pair}
    first = list(cells.values())[: len(arms) * criterion["seeds"]]
    assert len(criterion["comparisons"]) <= 6
    assert {cell["arm"] for cell in first} == arms
    assert [cell["seed"] for cell in first] == sorted(cell["seed"] for cell in first)


def test_the_large_studies_are_what_was_fixed_before_the_runs() -> None:
    for name, seeds in (("small", 8), ("gpu", 4)):
        settings = yaml.safe_load((CONFIGS / f"pretrained_{name}.yaml").read_text("utf-8"))
        assert settings["criterion"] == {
            "task": "pos",
            "comparisons": [
                ["joint", "none"],
                ["joint", "shared_adapter"],
                ["adapters", "joint"],
                ["meta_fast", "adapters_longer"],
                ["meta_next", "adapters_longer"],
                ["meta_fast", "meta_direct"],
            ],
            "margin": 0.005,
            "seeds": seeds,
        }
        assert {len(several) for several in settings["trials"].values()} == {3}


def test_options_are_combined() -> None:
    common = {"learning_rate": 0.1, "training": {"use_cpu": True, "languages_per_pass": 99}}
    held = {"adapter_rate": 5, "training": {"indirect_ratio": 1.0}}
    tuned = {"meta_fast": held, "joint": {"learning_rate": 0.2}}
    fast = pretrained_options("meta_fast", common, tuned)
    assert (fast["learning_rate"], fast["adapter_rate"]) == (0.1, 5)
    assert fast["training"] == {**common["training"], "preset": "fast", "indirect_ratio": 1.0}

    # The arm without the indirect part has the same rates, and nothing to hold.
    direct = pretrained_options("meta_direct", common, tuned)
    assert direct["adapter_rate"] == 5
    assert "indirect_ratio" not in direct["training"]
    assert pretrained_options("shared_adapter", common, tuned)["learning_rate"] == 0.2
    paper = pretrained_options("meta_paper", common, tuned)["training"]
    assert paper["languages_per_pass"] == 1  # passes of a language each
    assert PRETRAINED_ARMS["none"].steps == 0
    for wrong in ("merged_ties", "sequential_reptile", "fast"):
        with pytest.raises(ConfigurationError, match="An arm must be one of"):
            pretrained_options(wrong, {}, {})


def test_the_best_trial_is_that_of_the_targets() -> None:
    args = arguments("tiny")
    cells = pretrained_trials(args, "")
    means = dict(zip(cells, (0.3, 0.4), strict=True))
    computed: Any = {
        name: {
            "settings": {"source": "en"},
            "result": {"scores": {"pos": {"target": {"en": [9.0 - mean], "sw": [mean]}}}},
        }
        for name, mean in means.items()
    }
    best, record = best_options(args, computed)
    assert best == {"joint": {"learning_rate": 0.01}}
    assert [one["score"] for one in record["joint"]] == [0.3, 0.4]


def test_a_block_with_an_unknown_task_is_refused() -> None:
    args = arguments("tiny")
    args.plan = {"a": {"tasks": ["pos", "pso"], "arms": ["none"], "seeds": [0]}}
    with pytest.raises(ConfigurationError, match=r"Found \['pso'\]"):
        pretrained_plan(args, {}, "")


def test_other_data_another_encoder_and_another_head_have_another_digest(tmp_path: Path) -> None:
    args = arguments("tiny")
    args.data = str(tmp_path)
    names = ("text/en/train.txt", "pos/sw/test.jsonl.gz", "model/model.safetensors")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def digest() -> str:
        return inputs_digest(args, str(tmp_path / "model"))

    found = {digest()}
    for name in names:
        (tmp_path / name).write_text("another")
        found.add(digest())
    args.head["steps"] += 1
    found.add(digest())
    assert len(found) == 5

    # A file that no cell reads does not count.
    (tmp_path / "text" / "en" / "extra.txt").write_text("more")
    assert digest() in found

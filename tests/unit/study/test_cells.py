"""The cells of a study: their names, and what each has from the settings."""

import pytest

from hf_meta_adapters.study.cells import study_cells, trial_cells
from hf_meta_adapters.study.study_arguments import StudyArguments
from tests.recipes.test_data import FOLDER

TRAINING = {"learning_rate": 1e-3, "per_device_train_batch_size": 4}


@pytest.fixture
def args():
    settings = {"seeds": [0, 1], "steps": 8, "text_limit": 50, "methods": ["mono", "adapters"]}
    return StudyArguments(
        data=str(FOLDER),
        languages=["en", "sw"],
        pair_methods=[],
        training=dict(TRAINING),
        **settings,
    )


def test_whole_seeds_come_first(args):
    names = ["adapters-en+sw", "mono-en", "mono-sw"]
    expected = [f"{name}-{seed}" for seed in (0, 1) for name in names]
    assert list(study_cells(args, {})) == expected


def test_a_model_of_one_language_sees_as_many_rows_of_it(args):
    cells = study_cells(args, {})
    assert cells["adapters-en+sw-0"]["steps"] == 8
    assert cells["mono-sw-0"]["steps"] == 8
    args.training["languages_per_step"] = 1
    cells = study_cells(args, {})
    steps = [cells[f"mono-{key}-0"]["steps"] for key in ("en", "sw")]
    assert sum(steps) == 8
    assert cells["mono-sw-0"]["training"]["languages_per_step"] is None


def test_a_method_that_was_not_tuned_takes_the_settings_of_another(args):
    args.methods = ["adapters", "adapters_longer"]
    cells = study_cells(args, {"adapters": {"learning_rate": 0.5}})
    assert cells["adapters-en+sw-0"]["training"]["learning_rate"] == 0.5
    assert cells["adapters_longer-en+sw-0"]["training"]["learning_rate"] == 0.5


def test_trials_are_scored_on_selection_text(args):
    (cell,) = trial_cells(args, "adapters", 0, {}, {}).values()
    assert (cell["split"], cell["steps"], cell["tasks"]) == ("valid", args.tune_steps, [])
    (first, *_) = study_cells(args, {}).values()
    assert (first["split"], first["tasks"]) == ("test", args.tasks)

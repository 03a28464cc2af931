"""A run with two checkpoints, of which every case gets a copy of its own to spoil."""

from __future__ import annotations

import shutil

import pytest

from tests.training import make_model, make_trainer

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, make_model(), **SAVING).train()
    return folder


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """The folder of a run, with `checkpoint-2` and `checkpoint-4`."""
    return shutil.copytree(finished_run, tmp_path / "run")

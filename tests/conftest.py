"""What every test stands on: no network, one thread, a fixed seed, and data that may be absent."""

import os
import random
from pathlib import Path

# Before the libraries are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = os.environ[
    "HF_EVALUATE_OFFLINE"
] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real multilingual data: beside the project, or HF_META_ADAPTERS_DATA."""
    folder = Path(os.environ.get("HF_META_ADAPTERS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"NOT CHECKED ON REAL DATA: {folder} is absent; HF_META_ADAPTERS_DATA names another"
            " folder."
        )
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    absent = pytest.mark.skip(reason="NOT CHECKED ON A GPU: no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(absent)

"""What every test stands on: no network, one thread, a fixed seed, and data that may be absent."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import packages_distributions
from pathlib import Path

# Before the libraries are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = os.environ[
    "HF_EVALUATE_OFFLINE"
] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

# Before anything imports distutils, which setuptools replaces: torch needs it for peft's BOFT.
with suppress(ImportError):
    import setuptools  # noqa: F401

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)

FIRST_LANE = (
    "docs/test_command_line.py",
    "docs/test_house_map.py",
    "docs/test_links.py",
    "docs/test_little_data.py",
    "docs/test_site.py",
    "docs/test_tables.py",
    "invariant/test_cost.py",
    "invariant/test_meta_languages.py",
    "invariant/test_sampled_rows.py",
    "invariant/test_surgery.py",
    "recipes/test_benchmarks.py",
    "recipes/test_diagnostic_studies.py",
    "recipes/test_few_label.py",
    "recipes/test_gpu.py",
    "recipes/test_gramian_noise.py",
    "recipes/test_headers.py",
    "recipes/test_little_text.py",
    "recipes/test_new_language.py",
    "recipes/test_pretrained.py",
    "recipes/test_small_llm.py",
    "recipes/test_soak.py",
    "recipes/test_study.py",
    "unit/data/",
    "unit/diagnostics/",
    "unit/meta/",
    "unit/products/",
    "unit/results/",
    "unit/study/",
    "unit/test_house_rules.py",
    "unit/test_project.py",
)
"""What `make test` alone runs, as if it were marked `first_lane`: mathematics and data that no
transformers takes part in, rules of the house, the wheel, and our own studies and benchmarks."""


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def accelerate_settings_kept() -> Iterator[None]:
    """Take back what arguments with bf16 or fp16 leave in the environment under transformers 4.

    `ACCELERATE_MIXED_PRECISION`, for one, would change the precision of later tests of the process.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def compiler_stance_kept() -> Iterator[None]:
    """Take back what threads that set the stance of the compiler at the same time leave behind.

    It is one for all threads: each puts back what it has found, and that may be another's.
    """
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("default")


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
    absent: dict[str, str] = {}
    if not torch.cuda.is_available():
        absent["gpu"] = "NOT CHECKED ON A GPU: no CUDA device"
    if "adapters" in packages_distributions():
        absent["first_lane"] = "NOT CHECKED beside `adapters`: `make test` checks it"

    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix().startswith(FIRST_LANE):
            item.add_marker("first_lane")

        for marker, reason in absent.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))

"""The layers hold, and each would be missed; the wheel and the sdist hold the package alone."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import FIRST_LANE
from tests.wheel import PACKAGE, PACKAGING, build


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = (
        "from importlinter.cli import lint_imports_command as run; run(['--config',"
        " '.importlinter', '--no-cache'])"
    )
    return subprocess.run(
        [sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(project_root: Path, tmp_path: Path) -> Path:
    """A copy of the package and its contracts, to be spoilt."""
    pytest.importorskip(
        "importlinter", reason="NOT CHECKED: import-linter is absent; the extra `dev` brings it"
    )
    shutil.copy(project_root / ".importlinter", tmp_path)
    (tmp_path / "tests").mkdir()
    for name in ("__init__.py", "contracts.py"):
        shutil.copy(project_root / "tests" / name, tmp_path / "tests")
    shutil.copytree(
        project_root / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def test_the_layers_hold(copy: Path) -> None:
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


DOWN = "Imports point down only"
BACKENDS = "Backends do not know one another"
PRIVATE = "A private module is imported in its own package only"
CYCLE = "No import cycle"
MATHEMATICS = "The mathematics knows no framework"
DATA = "The data side knows no model"
ACCELERATE = "Only the Trainer and the launcher name accelerate"
PEFT = "Only PEFT's own backends name peft"
ADAPTERS = "Only the adapters backend names adapters"
ROOT = "Modules import from modules, never from the root"

VIOLATIONS = [
    ({"_typing": "import hf_meta_adapters.meta"}, DOWN),
    ({"data/_planted": "import hf_meta_adapters.training.trainer"}, DOWN),
    ({"data/_planted": "from hf_meta_adapters.meta import meta_gradient"}, DOWN),
    ({"hub/_planted": "import hf_meta_adapters.backends.registry"}, DOWN),
    ({"stray": ""}, DOWN),
    ({"_stray": ""}, DOWN),
    ({"backends/peft/_planted": "import hf_meta_adapters.backends.bottleneck"}, BACKENDS),
    ({"backends/stray": ""}, BACKENDS),
    ({"modeling/_planted": "from hf_meta_adapters.hub import _card"}, PRIVATE),
    ({"modeling/_planted": "from hf_meta_adapters.hub._card import CARD"}, PRIVATE),
    ({"cli/_planted": "import hf_meta_adapters.backends.peft._backend"}, PRIVATE),
    ({"data/_one": "from . import _two", "data/_two": "from . import _one"}, CYCLE),
    ({"meta/_planted": "import peft"}, MATHEMATICS),
    ({"diagnostics/_planted": "from transformers import Trainer"}, MATHEMATICS),
    ({"anatomy/_planted": "import transformers"}, MATHEMATICS),
    ({"results/_planted": "import transformers"}, MATHEMATICS),
    ({"data/_planted": "import transformers"}, DATA),
    ({"evaluation/_planted": "from accelerate import Accelerator"}, ACCELERATE),
    ({"modeling/_planted": "import peft"}, PEFT),
    ({"backends/base": "import adapters"}, ADAPTERS),
    ({"hub/_planted": "from hf_meta_adapters import __version__"}, ROOT),
]
"""Module → a line to add to it, and the contract that the line breaks."""

ALLOWED = {
    "training/_planted": "import accelerate",
    "backends/peft/_planted": "import peft",
    "backends/adapters/_planted": "import adapters",
    "hub/_planted": "from hf_meta_adapters.hub import _card",
    "modeling/_planted": "from hf_meta_adapters._typing import Language",
}
"""The exceptions that the contracts make, and what is near a violation without being one."""


def plant(copy: Path, lines: dict[str, str]) -> None:
    for module, line in lines.items():
        with (copy / PACKAGE / f"{module}.py").open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")


def broken(result: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the contracts that were reported as broken."""
    return set(re.findall(r"^(.+?) BROKEN", result.stdout, re.MULTILINE))


@pytest.mark.parametrize(("planted", "contract"), VIOLATIONS)
def test_a_planted_violation_is_found(copy: Path, planted: dict[str, str], contract: str) -> None:
    plant(copy, planted)
    result = lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert contract in broken(result), result.stdout


def test_what_is_allowed_breaks_nothing(copy: Path) -> None:
    plant(copy, ALLOWED)
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_has_its_violation(project_root: Path) -> None:
    text = (project_root / ".importlinter").read_text(encoding="utf-8")
    contracts = set(re.findall(r"^name = (.+)$", text, re.MULTILINE))
    assert contracts == {contract for _, contract in VIOLATIONS}


@pytest.fixture(scope="module")
def distributions(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of the project."""
    pytest.importorskip(
        "hatchling", reason="NOT CHECKED: hatchling is absent; the extra `dev` brings it"
    )
    return build(project_root, tmp_path_factory.mktemp("project"))


def package_files(project_root: Path) -> set[str]:
    files = (
        file.relative_to(project_root)
        for file in (project_root / PACKAGE).rglob("*")
        if file.is_file()
    )
    return {
        file.as_posix()
        for file in files
        if not re.search(r"(^|/)(\.|__pycache__/)", file.as_posix())
    }


def recipe_files(project_root: Path) -> set[str]:
    """What a user runs, configures and reads; not the records of our own runs."""
    recipes = project_root / "recipes"
    patterns = ("*.py", "configs/*.yaml", "accelerate/*.yaml", "data/*/*.gz", "data/[!b]*")
    files = {file for pattern in patterns for file in recipes.glob(pattern) if file.is_file()}
    return {file.relative_to(project_root).as_posix() for file in files}


def test_the_wheel_holds_the_package_and_its_recipes_and_nothing_else(
    distributions: Path, project_root: Path
) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    recipes = {f"{PACKAGE}/bundled/{file}" for file in recipe_files(project_root)}
    assert names == package_files(project_root) | recipes
    assert f"{PACKAGE}/py.typed" in names
    assert f"{PACKAGE}/bundled/recipes/configs/pretrain_mlm.yaml" in names


def test_the_wheel_has_the_command(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "hf-meta-adapters = hf_meta_adapters.cli.command:main" in archive.read(name).decode()


def test_the_sdist_holds_what_a_build_needs(distributions: Path, project_root: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        }
    built = package_files(project_root) | recipe_files(project_root) | set(PACKAGING)
    assert names - {"PKG-INFO", ".gitignore"} == built


def description(distributions: Path) -> str:
    """What PyPI shows."""
    (wheel,) = distributions.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    message = email.message_from_bytes(archive.read(name))
    assert message["Description-Content-Type"] == "text/markdown"
    return message.get_payload(decode=True).decode("utf-8")  # type: ignore[union-attr]


def test_pypi_is_given_nothing_that_it_cannot_show(distributions: Path, project_root: Path) -> None:
    text = description(distributions)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "![" not in text
    assert not re.search(r"\s\( *\)|\(, | {2,}[(.,]", text)  # a hole where a link was

    # Nothing else is lost: code, tables and headings are those of the README.
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    for kind in (r"^#.*$", r"^```.*?^```$"):
        flags = re.MULTILINE | (re.DOTALL if "`" in kind else 0)
        assert re.findall(kind, text, flags) == re.findall(kind, readme, flags)
    assert text.count("\n|") == readme.count("\n|")


def test_the_wheel_imports_without_the_checkout(distributions: Path, tmp_path: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = f"import {PACKAGE}; print({PACKAGE}.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)


def test_one_version_everywhere(project_root: Path) -> None:
    version = re.search(
        r'"(.+)"', (project_root / PACKAGE / "_version.py").read_text().splitlines()[-1]
    )
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (project_root / "CITATION.cff").read_text(
        encoding="utf-8"
    )
    changelog = (project_root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{version[1]}]" in changelog or "## [Unreleased]" in changelog


def test_the_lowest_versions_are_those_that_are_promised(project_root: Path) -> None:
    bounds = dict(
        re.findall(
            r'"([\w-]+)(?:\[[^]]*\])?>=([\d.]+)',
            (project_root / "pyproject.toml").read_text("utf-8"),
        )
    )
    lowest = dict(
        re.findall(
            r"^([\w-]+)==([\d.]+)$",
            (project_root / "tests" / "lowest.txt").read_text("utf-8"),
            re.M,
        )
    )

    def release(version: str) -> list[int]:
        return [int(number) for number in (*version.split("."), "0", "0")[:3]]

    promised = {name: version for name, version in lowest.items() if name in bounds}
    assert {"transformers", "peft", "accelerate", "datasets", "evaluate", "safetensors"} <= set(
        promised
    )
    assert {name: release(version) for name, version in promised.items()} == {
        name: release(bounds[name]) for name in promised
    }


@pytest.mark.parametrize(
    ("lock", "lane"), [("locked.txt", "dev"), ("locked-adapters.txt", "adapters")]
)
def test_the_locked_versions_are_within_the_bounds(
    project_root: Path, lock: str, lane: str
) -> None:
    lines = (project_root / "tests" / lock).read_text("utf-8").splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines[1:])}
    bounds = [Requirement(line) for line in requires("hf-meta-adapters") or ()]
    bounds = [bound for bound in bounds if lane == "adapters" or bound.name != "adapters"]
    bounds = [bound for bound in bounds if bound.name not in ("torch", "hf-meta-adapters")]
    assert {canonicalize_name(bound.name) for bound in bounds} <= set(pins)
    for bound in bounds:
        (exact,) = pins[canonicalize_name(bound.name)].specifier
        assert exact.operator == "=="
        assert bound.specifier.contains(exact.version), (
            f"{bound} excludes the locked {exact.version}"
        )


@pytest.mark.parametrize("path", FIRST_LANE)
def test_what_the_second_lane_leaves_out_exists(path: str, project_root: Path) -> None:
    assert (project_root / "tests" / path).exists()

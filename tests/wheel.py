"""Wheel and sdist of the project, built from a copy of it without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "hf_meta_adapters"
PACKAGING = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/pypi_readme.py")


def build(root: Path, folder: Path) -> Path:
    """Build both into a folder below `folder`, and return it."""
    source, output = folder / "source", folder / "dist"
    (source / ".ci").mkdir(parents=True)
    for name in PACKAGING:
        shutil.copy(root / name, source / name)
    for name in (PACKAGE, "tests", "recipes", "docs"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))

    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(output)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return output


def install(dist: Path, folder: Path) -> Path:
    """Install the wheel of a folder, without what it depends on, and return where."""
    (wheel,) = dist.glob("*.whl")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder

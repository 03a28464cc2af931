"""The page about the command line runs as it is printed, in an empty folder, with nothing but the
built wheel on the path.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.docs.commands import LIMIT, bash_blocks, environment, run
from tests.docs.pages import ROOT, pages, python_blocks
from tests.hub_server import HubServer

NAME = "how-to/command_line"
PAGE = ROOT / "docs" / f"{NAME}.md"

LINES = {
    "en": "In the beginning was the Word, and the Word was with God.\n",
    "sw": "Hapo mwanzo, kabla ya ulimwengu kuumbwa, Neno alikuwako.\n",
}


def put_files(folder: Path) -> None:
    """The files that the page says it needs."""
    for language, line in LINES.items():
        for kind in ("texts", "labels"):
            (folder / kind / language).mkdir(parents=True)
        (folder / "held_out").mkdir(exist_ok=True)

        (folder / "texts" / language / "train.txt").write_text(line * 60, encoding="utf-8")
        (folder / "held_out" / f"{language}.txt").write_text(line * 8, encoding="utf-8")

        row = json.dumps({"tokens": ["Anna", "sings"], "tags": ["B-PER", "O"]})
        for split in ("train", "test"):
            file = folder / "labels" / language / f"{split}.jsonl"
            file.write_text(f"{row}\n" * 8, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
@pytest.mark.timeout(2 * LIMIT)
def test_the_page_runs_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    put_files(folder)

    with HubServer() as hub:
        variables = environment(installed, tmp_path / "home", hub)
        where = "import hf_meta_adapters; print(hf_meta_adapters.__file__)"
        file = run([sys.executable, "-c", where], folder, variables)
        assert Path(file.strip()).is_relative_to(installed)

        said = [run(["bash", "-euc", block], folder, variables) for block in bash_blocks(NAME)]

        python = "\n".join(block.code for block in python_blocks(PAGE.read_text(encoding="utf-8")))
        variables["HF_HOME"] = str(tmp_path / "another_home")
        loaded = run([sys.executable, "-c", python], elsewhere, variables)

    assert "pretrain_mlm" in said[0]
    assert said[2].splitlines()[-2:] == ["en", "sw"]
    assert said[5] == "en\nsw\n"
    assert loaded.splitlines()[-1] == "('en', 'sw')"

    for written in ("family/sw", "mine/sw", "scores/scores.json", "report/report.html"):
        assert (folder / written).exists()
    record = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert "hf-meta-adapters run diagnose family held_out" in json.dumps(record)
    assert str(installed) not in json.dumps(record)


def test_the_message_on_the_page_is_that_of_the_command() -> None:
    (command,) = [block for block in bash_blocks(NAME) if "|| true" in block]
    words = command.removesuffix(" || true\n").split()
    assert words[0] == "hf-meta-adapters"

    done = subprocess.run(
        [sys.executable, "-m", "hf_meta_adapters", *words[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert textwrap.dedent(f"```text\n{done.stderr}```") in PAGE.read_text(encoding="utf-8")


ONLY_IN_A_CLONE = re.compile(
    r"python recipes/|recipes/(?:configs|accelerate|data)\b|recipes/\w+\.py"
)
FOR_CLONES = {"recipes/data/README.md", "recipes/data/build.py"}


def texts() -> list[Path]:
    """What a user of an installed package reads: pages, messages, headers."""
    files = [*pages(), *(ROOT / "docs").rglob("*.ipynb"), *(ROOT / "recipes").rglob("*.md")]
    for folder in ("hf_meta_adapters", "recipes"):
        files += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]
    return files


def test_nothing_names_a_path_that_an_installed_package_lacks() -> None:
    found = {}
    for file in texts():
        name = file.relative_to(ROOT).as_posix()
        words = re.sub(r"\]\([^)]*\)", "]", file.read_text(encoding="utf-8"))
        if name not in FOR_CLONES and (match := ONLY_IN_A_CLONE.search(words)):
            found[name] = match[0]
    assert found == {}
    assert ONLY_IN_A_CLONE.search("python recipes/diagnose.py MODEL")
    assert not ONLY_IN_A_CLONE.search("recipes/results/quickstart.json")

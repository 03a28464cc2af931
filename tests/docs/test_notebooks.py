"""The notebooks run, and they store the outputs of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.notebooks import notebooks, run
from tests.docs.pages import ROOT
from tests.docs.test_links import LINK

TOOLS = ("nbformat", "nbclient", "ipykernel")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]


def kinds(cells: list[dict[str, Any]]) -> list[list[str]]:
    return [[one["output_type"] for one in cell["outputs"]] for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks(), ids=name)
def test_a_notebook_runs(path: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in TOOLS:
        pytest.importorskip(
            package, reason=f"NOT CHECKED: `{package}` is absent; the extra `dev` has it"
        )
    monkeypatch.setenv("PYTHONPATH", "")  # `run` sets it; this puts it back
    ran = run(path, workshop)
    assert kinds([cell for cell in ran.cells if cell.cell_type == "code"]) == kinds(
        code_cells(path)
    )


@pytest.mark.parametrize("path", notebooks(), ids=name)
def test_a_notebook_is_stored_as_it_ran(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], (
        "python -m tests.docs.notebooks"
    )
    shown = [one for cell in cells for one in cell["outputs"]]
    assert shown
    assert not [
        one for one in shown if one["output_type"] == "error" or one.get("name") == "stderr"
    ]


@pytest.mark.parametrize("path", notebooks(), ids=name)
def test_the_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = LINK.findall(text)
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_there_is_a_notebook_and_the_site_shows_it() -> None:
    assert notebooks()
    nav = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    for path in notebooks():
        assert re.search(
            rf": {re.escape(path.relative_to(ROOT / 'docs').as_posix())}$", nav, re.MULTILINE
        )

"""A grid computes each cell once, whole or not at all, in the part and the processes that it is
told.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.study.grid import read_grid, run_grid

CELLS = {name: {"n": n} for n, name in enumerate("abcde")}


def square(settings: dict, calls: list | None = None) -> dict:
    if calls is not None:
        calls.append(settings["n"])
    return {"square": settings["n"] ** 2, "process": os.getpid()}


def fail_at(bad: int, settings: dict) -> dict:
    if settings["n"] == bad:
        raise RuntimeError("no")
    return square(settings)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    calls: list[int] = []
    first = run_grid(partial(square, calls=calls), {"a": CELLS["a"]}, tmp_path)
    everything = run_grid(partial(square, calls=calls), CELLS, tmp_path)
    assert calls == [0, 1, 2, 3, 4]
    assert everything["a"] == first["a"]
    assert [cell["result"]["square"] for cell in everything.values()] == [0, 1, 4, 9, 16]
    assert all(cell["seconds"] >= 0 and cell["cpu_seconds"] >= 0 for cell in everything.values())
    assert read_grid(CELLS, tmp_path) == everything
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json" for name in CELLS}


def test_a_cell_names_the_gpu_that_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = run_grid(square, {"a": CELLS["a"]}, tmp_path / "without")["a"]["machine"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    found = run_grid(square, {"a": CELLS["a"]}, tmp_path / "with")["a"]["machine"]
    assert ", a card, Python" in found
    assert found.replace(", a card", "") == without


def test_what_was_done_before_a_failure_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no"):
        run_grid(partial(fail_at, 2), CELLS, tmp_path)
    assert sorted(read_grid(CELLS, tmp_path)) == ["a", "b"]
    assert len(run_grid(square, CELLS, tmp_path)) == 5


def test_half_a_file_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json.77.partial").write_text('{"settings"')
    assert read_grid(CELLS, tmp_path) == {}
    (tmp_path / "a.json").write_text('{"settings"')
    with pytest.raises(DataError, match="Delete it"):
        run_grid(square, CELLS, tmp_path)


def test_parts_make_the_whole(tmp_path: Path) -> None:
    parts = [run_grid(square, CELLS, tmp_path, part=(i, 2)) for i in (1, 2)]
    assert [list(part) for part in parts] == [["a", "c", "e"], ["b", "d"]]
    assert len(read_grid(CELLS, tmp_path)) == 5


@pytest.mark.slow
def test_processes_share_the_work(tmp_path: Path) -> None:
    found = run_grid(square, CELLS, tmp_path, processes=2)
    assert list(found) == list(CELLS)
    assert os.getpid() not in {cell["result"]["process"] for cell in found.values()}


def test_the_bar_counts_cells_by_their_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(square, {"a": CELLS["a"]}, tmp_path)
    run_grid(square, CELLS, tmp_path, costs={"a": 6.0}, progress=True)  # the others cost 1 each
    shown = capsys.readouterr().err
    assert " 60%" in shown
    assert "100%" in shown


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda to: run_grid(square, {"a": {"n": 9}}, to),
            r"Found n = 0 in .*a\.json where it is 9 now",
        ),
        (lambda to: run_grid(square, {"../a": {}}, to), r"that of a file\. Found '\.\./a'"),
        (lambda to: run_grid(square, CELLS, to, part=(3, 2)), r"Found 1 and \(3, 2\)"),
        (lambda to: run_grid(square, CELLS, to, processes=0), r"Found 0 and"),
    ],
)
def test_what_cannot_work_is_refused(
    run: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    run_grid(square, {"a": CELLS["a"]}, tmp_path)
    before = json.loads((tmp_path / "a.json").read_text())
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path)
    assert json.loads((tmp_path / "a.json").read_text()) == before

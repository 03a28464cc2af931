"""Stages end by themselves or at their limit, with everything that they have started."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from hf_meta_adapters.study import timed_stages
from hf_meta_adapters.study.timed_stages import StageResult, TimedStages, run_stages

LONG = 60.0


def run_stage(name: str, command: list[str], *given: object) -> StageResult:
    (found,) = run_stages({name: command}, *given)  # type: ignore[arg-type]
    return found


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_stage_tells_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os, sys; print('10 %\\r100 %'); print(os.environ['GIVEN'], file=sys.stderr)"
    found = run_stage("one", python(f"{code}; sys.exit(3)"), LONG, log, {"GIVEN": "here"})
    assert (found.returncode, found.stopped, found.name) == (3, False, "one")
    assert sorted(found.last_lines) == ["100 %", "here"]
    text = log.read_text()
    assert text.startswith("before\n")
    assert "===== one: " in text


def test_a_stage_is_stopped_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither may ask to be left alone."""
    monkeypatch.setattr(timed_stages, "_GRACE", 0.2)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n"
        "time.sleep(600)"
    )
    began = time.perf_counter()
    found = run_stage("long", python(code), 3.0, tmp_path / "log")
    assert found.stopped
    assert found.returncode < 0
    assert time.perf_counter() - began < LONG
    (number,) = found.last_lines
    deadline = time.perf_counter() + LONG
    while _runs(int(number)):
        assert time.perf_counter() < deadline
        time.sleep(0.05)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # one that has ended, and that nobody has waited for
    status = Path(f"/proc/{number}/stat")
    return not status.exists() or status.read_text().split(")")[-1].split()[0] != "Z"


def test_stages_run_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for a file that the other writes."""
    wait = (
        "import pathlib, time\npathlib.Path({!r}).touch()\nwhile not pathlib.Path({!r}).exists():"
    )
    names = [str(tmp_path / name) for name in "ab"]
    commands = {
        name: python(wait.format(*pair) + " time.sleep(0.01)\nprint('met')")
        for name, pair in zip("ab", (names, names[::-1]), strict=True)
    }
    found = run_stages(commands, LONG, tmp_path / "log")
    assert [(one.name, one.returncode, one.last_lines) for one in found] == [
        ("a", 0, ["met"]),
        ("b", 0, ["met"]),
    ]
    assert (tmp_path / "log").read_text().count("met\n") == 2


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    found = run_stage("none", [str(tmp_path / "none")], LONG, tmp_path / "log")
    assert found.returncode == 127
    assert "No such file" in found.last_lines[0]


def test_the_file_tells_of_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gpu.log").write_text("of an earlier run")
    stages = TimedStages(tmp_path, LONG, {"command": "c"})
    stages.run("bad", python("raise SystemExit(2)"), LONG)
    stages.run("good", python("import os; print(os.environ['OMP_NUM_THREADS'])"), LONG)
    stages.record(StageResult("none", "", 0.0, 0.0, 0, True, ["no time was left"]))
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["command"] == "c"
    assert [one["returncode"] for one in content["stages"]] == [2, 0, 0]
    assert content["stages"][1]["last_lines"] == ["1"]
    assert "of an earlier run" not in (tmp_path / "gpu.log").read_text()
    assert 0 < stages.left() <= LONG
    assert "stopped at its limit" in capsys.readouterr().out

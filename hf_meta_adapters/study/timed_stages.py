"""Commands one after the other, each in processes of its own and with a time limit."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_meta_adapters.results.files import write_text

__all__ = ["StageResult", "TimedStages", "run_stage"]

_GRACE = 5.0  # seconds between the request to end and the end
_LAST_LINES = 12
_WIDEST = 300  # characters of a line that are kept


@dataclass(frozen=True)
class StageResult:
    """What became of a command.

    Attributes:
        name: What the stage is called.
        command: The command.
        limit: The seconds that it had.
        seconds: The seconds that it took.
        returncode: Its exit code; negative if a signal ended it.
        stopped: Whether it was stopped at its limit.
        last_lines: The end of what it printed.
    """

    name: str
    command: str
    limit: float
    seconds: float
    returncode: int
    stopped: bool
    last_lines: list[str]

    def to_dict(self) -> dict[str, object]:
        """The result as JSON."""
        return asdict(self)


class TimedStages:
    """Stages within a time, and the file that tells of them.

    Args:
        folder: Where `gpu.json` and `gpu.log` are written; new ones take the place of old ones.
        seconds: The time of all stages together.
        about: What the file says beside the stages.
    """

    def __init__(self, folder: Path, seconds: float, about: Mapping[str, object]) -> None:
        self._folder = folder
        self._end = time.perf_counter() + seconds
        self._about = dict(about)
        self.stages: list[StageResult] = []
        """What became of each stage."""

        write_text(folder / "gpu.log", "")

    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.perf_counter()

    def run(self, name: str, command: Sequence[str], limit: float) -> None:
        """Run a stage.

        Args:
            name: What it is called.
            command: Its command.
            limit: The seconds that it may take.
        """
        print(f"{name}: at most {limit:.0f} s", flush=True)
        # Processes share the cores, and one thread of each launches the kernels.
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.record(run_stage(name, command, limit, self._folder / "gpu.log", environment))

    def record(self, found: StageResult) -> None:
        """Write what became of a stage, so that it outlives the run.

        Args:
            found: The stage.
        """
        self.stages.append(found)
        stages = [one.to_dict() for one in self.stages]
        text = json.dumps({**self._about, "stages": stages}, indent=1)
        write_text(self._folder / "gpu.json", text)

        ended = f"exit code {found.returncode}"
        if found.stopped:
            ended = "stopped at its limit"
        print(f"  {found.seconds:.0f} s, {ended}", flush=True)
        for line in found.last_lines[-3:]:
            print(f"    {line[:160]}", flush=True)


def run_stage(
    name: str,
    command: Sequence[str],
    limit: float,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> StageResult:
    """Run a command until it ends or its time is over; then end it with all of its processes.

    Args:
        name: What the stage is called.
        command: The command.
        limit: Its seconds.
        log: A file to whose end everything it prints is written.
        environment: Variables beside those of this process.

    Returns:
        What became of it. A command that cannot be started has the exit code 127.

    Example:
        >>> import sys, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     command = [sys.executable, "-c", "print('done')"]
        ...     stage = run_stage("one", command, 60, Path(folder) / "log.txt")
        >>> stage.returncode, stage.stopped, stage.last_lines
        (0, False, ['done'])
    """
    given = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    began, stopped = time.perf_counter(), False
    with log.open("ab") as file:
        file.write(f"\n===== {name}: {shlex.join(command)}\n".encode())
        file.flush()
        start = file.tell()

        try:
            process = subprocess.Popen(  # noqa: S603 (written by the caller)
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=given,
                start_new_session=True,
            )
        except OSError as error:
            return StageResult(name, shlex.join(command), limit, 0.0, 127, False, [str(error)])

        try:
            process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            stopped = True
        finally:
            _end(process)

    seconds = round(time.perf_counter() - began, 1)
    lines = _last_lines(log, start)
    code = process.returncode
    return StageResult(name, shlex.join(command), limit, seconds, code, stopped, lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it has started, which share its group."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)

    # Workers may outlive the process that started them.
    _signal(process, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if os.name == "nt":  # which has no groups of processes
        process.terminate()
        return

    with suppress(ProcessLookupError, PermissionError):  # they have ended
        os.killpg(process.pid, number)


def _last_lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")

    # A progress bar writes over its line.
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line[:_WIDEST] for line in lines if line][-_LAST_LINES:]

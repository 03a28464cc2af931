"""Commands in processes of their own, with time limits."""

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

__all__ = ["StageResult", "TimedStages", "run_stages"]

_GRACE = 5.0  # seconds between the request to end and the end
_LAST_LINES = 12
_NOT_STARTED = 127
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
        self.run_together({name: command}, limit)

    def run_together(self, commands: Mapping[str, Sequence[str]], limit: float) -> None:
        """Run several stages at the same time.

        Args:
            commands: Name → command.
            limit: The seconds that they may take.
        """
        for name in commands:
            print(f"{name}: at most {limit:.0f} s", flush=True)

        # Processes share the cores, and one thread of each launches the kernels.
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        log = self._folder / "gpu.log"
        for found in run_stages(commands, limit, log, environment):
            self.record(found)

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


def run_stages(
    commands: Mapping[str, Sequence[str]],
    limit: float,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> list[StageResult]:
    """Run commands at the same time, until they end or their time is over.

    What is over is ended with all processes that it has started.

    Args:
        commands: Name → command.
        limit: The seconds of all of them.
        log: A file to whose end everything they print is written, one after the other.
        environment: Variables beside those of this process.

    Returns:
        What became of each. A command that cannot be started has the exit code 127.

    Example:
        >>> import sys, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     command = [sys.executable, "-c", "print('done')"]
        ...     (stage,) = run_stages({"one": command}, 60, Path(folder) / "log.txt")
        >>> stage.returncode, stage.stopped, stage.last_lines
        (0, False, ['done'])
    """
    given = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    began = time.perf_counter()
    started: list[_Started] = []
    try:
        for number, (name, command) in enumerate(commands.items()):
            # Beside the log, so that it is not lost if this process is killed.
            output = log.with_name(f"{log.name}.{number}")
            started.append(_Started(name, command, limit, output, given))

        for one in started:
            one.wait(max(began + limit - time.perf_counter(), 0.1))
    finally:
        for one in started:
            one.end()

    results = [one.result() for one in started]
    with log.open("ab") as file:
        for one in started:
            file.write(f"\n===== {one.name}: {shlex.join(one.command)}\n".encode())
            file.write(one.output.read_bytes())
            one.output.unlink()
    return results


class _Started:
    """A command that is running, or could not be started."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        limit: float,
        output: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.name, self.command, self.output = name, command, output
        self._limit, self._stopped = limit, False
        self._began = time.perf_counter()
        self._seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

        with output.open("wb") as file:
            try:
                self._process = subprocess.Popen(  # noqa: S603 (written by the caller)
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                file.write(str(error).encode())

    def wait(self, seconds: float) -> None:
        """Wait for its end, for some seconds at most."""
        if self._process is None:
            return

        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._stopped = True

    def end(self) -> None:
        """End it, and the processes that it has started, which share its group."""
        process = self._process
        if process is None:
            return

        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)

        # Workers may outlive the process that started them.
        _signal(process, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait()
        self._seconds = round(time.perf_counter() - self._began, 1)

    def result(self) -> StageResult:
        """What became of it, after its end."""
        code = _NOT_STARTED
        if self._process is not None:
            code = self._process.returncode

        text = self.output.read_bytes().decode(errors="replace")
        # A progress bar writes over its line.
        lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return StageResult(
            name=self.name,
            command=shlex.join(self.command),
            limit=round(self._limit, 1),
            seconds=self._seconds,
            returncode=code,
            stopped=self._stopped,
            last_lines=[line[:_WIDEST] for line in lines if line][-_LAST_LINES:],
        )


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if os.name == "nt":  # which has no groups of processes
        process.terminate()
        return

    with suppress(ProcessLookupError, PermissionError):  # they have ended
        os.killpg(process.pid, number)

"""Several processes of one run on this machine, as a launcher starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIMIT = 100  # seconds


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher tells a process."""
    said = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_PORT": port,
    }
    fixed = {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    return {name: str(value) for name, value in said.items()} | fixed


def _one(
    work: Callable[..., None],
    rank: int,
    ranks: int,
    port: int,
    folder: Path,
    given: tuple[Any, ...],
) -> None:
    os.environ |= environment(rank, ranks, port)
    try:
        work(rank, *given)
    except Exception as error:
        (folder / f"rank{rank}.error").write_text(f"{type(error).__name__}: {error}")
        (folder / f"rank{rank}.trace").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # a process group whose other end is gone waits on exit


def outcome(
    folder: Path, work: Callable[..., None], given: Sequence[tuple[Any, ...]], limit: float = LIMIT
) -> tuple[list[int | None], list[str]]:
    """The exit codes and errors of processes that do `work(rank, *given[rank])` together; none of
    them hangs.

    Args:
        folder: Where errors are written.
        work: A function of a module that a new process can import.
        given: The arguments of each process.
        limit: Seconds.

    Returns:
        The exit codes, and what each said ("" where nothing went wrong).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training", "hf_meta_adapters.training.trainer"])
    port, ranks = free_port(), len(given)
    several = [
        context.Process(target=_one, args=(work, rank, ranks, port, folder, arguments))
        for rank, arguments in enumerate(given)
    ]
    for process in several:
        process.start()
    for process in several:
        process.join(limit)
    hanging = [process.kill() for process in several if process.is_alive()]
    assert hanging == []
    said = [folder / f"rank{rank}.error" for rank in range(ranks)]
    return [process.exitcode for process in several], [
        path.read_text() if path.exists() else "" for path in said
    ]


def together(
    folder: Path, work: Callable[..., None], *given: Any, ranks: int = 2, limit: float = LIMIT
) -> None:
    """Let processes do `work(rank, *given)` together; an error of any of them is one here."""
    codes, _ = outcome(folder, work, [given] * ranks, limit)
    traces = "\n".join(path.read_text() for path in sorted(folder.glob("rank*.trace")))
    assert codes == [0] * ranks, (codes, traces)

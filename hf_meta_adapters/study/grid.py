"""Many independent computations, each in a file of its own: what is done is never done again."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import torch
from tqdm.auto import tqdm

from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.results.files import write_text

__all__ = ["ComputedCell", "read_grid", "run_grid"]

Settings: TypeAlias = Mapping[str, Any]
"""Everything that determines the result of a cell, as JSON."""

Compute: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""From the settings of a cell to its result, as JSON."""


class ComputedCell(TypedDict):
    """The content of the file of a cell.

    Attributes:
        settings: What determines the result.
        result: What was computed.
        seconds: How long that took.
        cpu_seconds: The same in processor time.
        machine: What it ran on.
    """

    settings: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    cpu_seconds: float
    machine: str


def run_grid(
    compute: Compute,
    cells: Mapping[str, Settings],
    folder: str | Path,
    *,
    processes: int = 1,
    part: tuple[int, int] = (1, 1),
    costs: Mapping[str, float] | None = None,
    progress: bool = False,
) -> dict[str, ComputedCell]:
    """Compute result(settings) for every cell without a file; cell c is `<folder>/<c>.json`.

    A file is there whole or not at all. A run that was killed continues where it was: at most the
    cells that were being computed are lost. Several runs may share a folder, each with its `part`.

    Args:
        compute: Makes the result of a cell (JSON) from its settings. With several processes it must
            be a function of a module or script, not one made inside another.
        cells: Name → settings.
        folder: Where the files are.
        processes: How many cells are computed at the same time; with more than one, each in its own
            process.
        part: (i, n): only every n-th cell, from the i-th on, 1 ≤ i ≤ n.
        costs: Name → how long it takes compared with others, for the estimate of the time left.
        progress: Whether to show a progress bar.

    Returns:
        Name → the content of its file, of all cells of the part: `settings`, `result`, `seconds`,
        `cpu_seconds`, `machine`.

    Raises:
        ConfigurationError: If the settings in a file differ from those of its cell, or an argument
            cannot work.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> def square(settings):
        ...     return {"square": settings["n"] ** 2}
        >>> with TemporaryDirectory() as folder:
        ...     cells = run_grid(square, {"two": {"n": 2}}, folder)
        >>> cells["two"]["result"]
        {'square': 4}
    """
    index, count = part
    if processes < 1 or not 1 <= index <= count:
        raise ConfigurationError(
            f"`processes` must be at least 1, and `part` (i, n) with 1 ≤ i ≤ n. Found {processes}"
            f" and {part}. Use for example `processes=2, part=(1, 3)`."
        )

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    names = list(cells)[index - 1 :: count]
    done = read_grid({name: cells[name] for name in names}, target)
    todo = {name: dict(cells[name]) for name in names if name not in done}

    # The bar counts costs, not cells, so that the time left is right where cells differ in size.
    weights = {**dict.fromkeys(names, 1.0), **(costs or {})}
    with tqdm(
        total=sum(weights[name] for name in names),
        initial=sum(weights[name] for name in done),
        disable=not progress,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    ) as bar:
        for name in _compute_all(compute, todo, target, processes):
            done[name] = _read(target / f"{name}.json")

            seconds = done[name]["seconds"]
            bar.set_description(f"{len(done)}/{len(names)} cells, last {name} ({seconds:.0f} s)")
            bar.update(weights[name])

    return {name: done[name] for name in names}


def read_grid(cells: Mapping[str, Settings], folder: str | Path) -> dict[str, ComputedCell]:
    """Read the cells that have been computed.

    Args:
        cells: Name → settings.
        folder: Where the files are.

    Returns:
        Name → the content of its file, of those that have one.

    Raises:
        ConfigurationError: If the settings in a file differ from those of its cell.
        DataError: If a file is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> cells = {"two": {"n": 2}, "three": {"n": 3}}
        >>> def square(settings):
        ...     return {"square": settings["n"] ** 2}
        >>> with TemporaryDirectory() as folder:
        ...     computed = run_grid(square, {"two": {"n": 2}}, folder)
        ...     sorted(read_grid(cells, folder))
        ['two']
    """
    computed = {}
    for name, settings in cells.items():
        if Path(name).name != name or not name:
            raise ConfigurationError(
                f"The name of a cell must be that of a file. Found {name!r}. Leave out separators."
            )

        path = Path(folder) / f"{name}.json"
        if path.is_file():
            computed[name] = _read(path)
            _check_settings(computed[name]["settings"], settings, path)

    return computed


def _read(path: Path) -> ComputedCell:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"A cell must be a JSON file. Found in {path}: {error}. Delete it."
        ) from None

    return cast(ComputedCell, content)


def _check_settings(saved: Settings, settings: Settings, path: Path) -> None:
    # Through JSON, because tuples come back as lists and numbers as keys come back as strings.
    current = json.loads(json.dumps(dict(settings)))

    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            raise ConfigurationError(
                f"Cells of one folder must come from the same settings. Found {key} ="
                f" {saved.get(key)!r} in {path} where it is {current.get(key)!r} now. Choose"
                " another folder, or delete the file."
            )


def _compute_all(
    compute: Compute, todo: Mapping[str, dict[str, Any]], folder: Path, processes: int
) -> Iterator[str]:
    """Yield the names of the cells as they are done."""
    if processes == 1:
        for name, settings in todo.items():
            _compute_and_write(compute, name, settings, folder)
            yield name
        return

    # A forked process would inherit CUDA and locks of threads that no longer run, and hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        futures = {
            pool.submit(_compute_and_write, compute, name, settings, folder): name
            for name, settings in todo.items()
        }
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            # After a failure, the pool would otherwise compute all cells that are left before the
            # error is seen.
            pool.shutdown(wait=False, cancel_futures=True)


def _compute_and_write(compute: Compute, name: str, settings: dict[str, Any], folder: Path) -> None:
    began, cpu_began = time.perf_counter(), time.process_time()
    result = dict(compute(settings))
    content: ComputedCell = {
        "settings": settings,
        "result": result,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu_began, 2),
        "machine": _machine(),
    }

    # As a whole: a kill leaves a file of another name, which nobody reads, and two runs may
    # compute the same cell.
    write_text(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False))


def _machine() -> str:
    """What this process has computed on."""
    parts = [platform.machine(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_initialized():
        parts.append(torch.cuda.get_device_name())

    return ", ".join([*parts, f"Python {platform.python_version()}"])


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed and could not tell.

    Workers of a killed pool would wait for tasks for ever, and keep their memory.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()

        # Not `sys.exit`, which ends only this thread.
        os._exit(1)

    # The process may also end before its parent: a daemon thread does not hold it up.
    threading.Thread(target=wait, daemon=True).start()

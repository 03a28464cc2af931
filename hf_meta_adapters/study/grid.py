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
from typing import Any, TypeAlias

from tqdm.auto import tqdm

from hf_meta_adapters.errors import ConfigurationError, DataError

__all__ = ["read_grid", "run_grid"]

Settings: TypeAlias = Mapping[str, Any]
"""Everything that determines the result of a cell, as JSON."""


def run_grid(
    compute: Callable[[dict[str, Any]], Mapping[str, Any]],
    cells: Mapping[str, Settings],
    folder: str | Path,
    *,
    processes: int = 1,
    part: tuple[int, int] = (1, 1),
    costs: Mapping[str, float] | None = None,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compute result(settings) for every cell that has no file yet; cell c is `<folder>/<c>.json`, whole or not there.

    A run that was killed goes on where it was: at most the cells that were being computed are lost.
    Several runs may share a folder, each with a `part` of its own.

    Args:
        compute: Makes the result of a cell (JSON) from its settings. With several processes it must
            be a function of a module or script, not one made inside another.
        cells: Name → settings.
        folder: Where the files are.
        processes: How many cells are computed at the same time, in processes of their own if more
            than one.
        part: (i, n): only every n-th cell, from the i-th on, 1 ≤ i ≤ n.
        costs: Name → how long it takes compared with others, for the time left.
        progress: Show a progress bar.

    Returns:
        Name → what its file holds, of all cells of the part: `settings`, `result`, `seconds`,
        `cpu_seconds`, `machine`.

    Raises:
        ConfigurationError: If a file has other settings than its cell now, or an argument cannot
            work.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cells = run_grid(lambda settings: {"square": settings["n"] ** 2}, {"two": {"n": 2}}, folder)
        >>> cells["two"]["result"]
        {'square': 4}
    """
    index, count = part
    if processes < 1 or not 1 <= index <= count:
        raise ConfigurationError(
            f"`processes` must be at least 1, and `part` (i, n) with 1 ≤ i ≤ n. Found {processes}"
            f" and {part}. Write for example `processes=2, part=(1, 3)`."
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    mine = dict(list(cells.items())[index - 1 :: count])
    done = read_grid(mine, target)
    weight = {name: (costs or {}).get(name, 1.0) for name in mine}
    todo = {name: dict(settings) for name, settings in mine.items() if name not in done}
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    before = sum(weight[name] for name in done)
    with tqdm(
        total=sum(weight.values()), initial=before, disable=not progress, bar_format=bar_format
    ) as bar:
        for name in _computed(compute, todo, target, processes):
            done[name] = _read(target / f"{name}.json")
            bar.set_description(
                f"{len(done)}/{len(mine)} cells, last {name} ({done[name]['seconds']:.0f} s)"
            )
            bar.update(weight[name])
    return {name: done[name] for name in mine}


def read_grid(cells: Mapping[str, Settings], folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read the cells that have been computed.

    Args:
        cells: Name → settings.
        folder: Where the files are.

    Returns:
        Name → what its file holds, of those that have one.

    Raises:
        ConfigurationError: If a file has other settings than its cell now.
        DataError: If a file is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> cells = {"two": {"n": 2}, "three": {"n": 3}}
        >>> with TemporaryDirectory() as folder:
        ...     computed = run_grid(lambda settings: {"square": settings["n"] ** 2}, {"two": {"n": 2}}, folder)
        ...     sorted(read_grid(cells, folder))
        ['two']
    """
    found = {}
    for name, settings in cells.items():
        path = Path(folder) / f"{name}.json"
        if Path(name).name != name or not name:
            raise ConfigurationError(
                f"The name of a cell must be that of a file. Found {name!r}. Leave out separators."
            )
        if path.is_file():
            found[name] = _read(path)
            own, now = found[name]["settings"], json.loads(json.dumps(dict(settings)))
            if changed := sorted(
                key for key in own.keys() | now.keys() if own.get(key) != now.get(key)
            ):
                raise ConfigurationError(
                    f"Cells of one folder must come from the same settings. Found {changed[0]} ="
                    f" {own.get(changed[0])!r} in {path} where it is {now.get(changed[0])!r} now."
                    " Write to another folder, or delete the file."
                )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"A cell must be a JSON file. Found in {path}: {error}. Delete it."
        ) from None
    return content


def _computed(
    compute: Callable[[dict[str, Any]], Mapping[str, Any]],
    todo: Mapping[str, dict[str, Any]],
    folder: Path,
    processes: int,
) -> Iterator[str]:
    """Yield the names of the cells as they are done."""
    if processes == 1:
        for name, settings in todo.items():
            yield _cell(compute, name, settings, folder)
        return
    # CUDA and threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [
            pool.submit(_cell, compute, name, settings, folder) for name, settings in todo.items()
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _cell(
    compute: Callable[[dict[str, Any]], Mapping[str, Any]],
    name: str,
    settings: dict[str, Any],
    folder: Path,
) -> str:
    began, cpu = time.perf_counter(), time.process_time()
    result = dict(compute(settings))
    content = {
        "settings": settings,
        "result": result,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        ),
    }
    partial = folder / f"{name}.json.{os.getpid()}.partial"
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / f"{name}.json")
    return name


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, even by a kill that it could not see."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

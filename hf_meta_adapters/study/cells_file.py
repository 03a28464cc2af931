"""The computed cells of a study in one file, small enough to be committed, and back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hf_meta_adapters.errors import DataError
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.grid import ComputedCell, Settings

__all__ = ["take_over_cells", "write_cells"]

COMMON, CELLS = "common_settings", "cells"


def write_cells(
    path: str | Path, record: Mapping[str, object], cells: Mapping[str, ComputedCell]
) -> None:
    """Write a record and cells as JSON, a cell on a line; what all settings share stands once.

    Args:
        path: The file.
        record: What else is to be in it.
        cells: Name → cell.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> cell = {"settings": {"n": 2}, "result": {"square": 4}, "seconds": 1.0}
        >>> cell |= {"cpu_seconds": 1.0, "machine": "a computer"}
        >>> with TemporaryDirectory() as folder:
        ...     write_cells(f"{folder}/all.json", {"about": "squares"}, {"two": cell})
        ...     taken = take_over_cells(f"{folder}/all.json", {"two": {"n": 2}}, folder)
        >>> taken
        ([], ['two'])
    """
    common: dict[str, Any] = {}
    first = next(iter(cells.values()), None)
    if first is not None:
        for name, value in first["settings"].items():
            if all(cell["settings"].get(name, cell) == value for cell in cells.values()):
                common[name] = value

    lines = []
    for name, cell in cells.items():
        own = {key: value for key, value in cell["settings"].items() if key not in common}
        lines.append(f"  {_json(name)}: {_json({**cell, 'settings': own})}")

    head = json.dumps({**record, COMMON: common}, indent=1, ensure_ascii=False)
    body = ",\n".join(lines)
    write_text(path, f'{head[:-2]},\n "{CELLS}": {{\n{body}\n }}\n}}')


def take_over_cells(
    path: str | Path, cells: Mapping[str, Settings], folder: str | Path
) -> tuple[list[str], list[str]]:
    """Put the cells of a file of `write_cells` where `run_grid` looks for them.

    Args:
        path: The file; one that does not exist holds no cells.
        cells: Name → settings, of the cells that are wanted.
        folder: The folder of `run_grid`. A cell that has a file there is left as it is.

    Returns:
        The names of the cells of the file that have other settings now, which must be computed
        anew, and the names of those that were taken over.

    Raises:
        DataError: If the file is damaged.
    """
    stale: list[str] = []
    taken: list[str] = []
    for name, cell in _read(Path(path)).items():
        if name not in cells:
            continue

        # Through JSON, as the settings of the file were.
        if cell["settings"] != json.loads(json.dumps(dict(cells[name]))):
            stale.append(name)
            continue

        place = Path(folder) / f"{name}.json"
        if not place.is_file():
            write_text(place, json.dumps(cell, indent=1, ensure_ascii=False))
            taken.append(name)
    return stale, taken


def _read(path: Path) -> dict[str, ComputedCell]:
    if not path.is_file():
        return {}

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        common = content[COMMON]
        return {
            name: cast(ComputedCell, {**cell, "settings": {**common, **cell["settings"]}})
            for name, cell in content[CELLS].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"A file of cells must be as `write_cells` writes it. Found in {path}: {error!r}."
            " Restore it, or delete it and compute its cells anew."
        ) from None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)

"""A folder that is there whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_folder"]


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give a new folder, and move it to its place when it is complete.

    A run that is killed leaves a folder of another name, which nobody reads. Where two processes
    make the same folder, the first one stays.

    Args:
        folder: The place.

    Yields:
        The folder to write to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with whole_folder(Path(place, "model")) as new:
        ...         _ = Path(new, "weights").write_text("1 2 3")
        ...     [path.name for path in Path(place).iterdir()]
        ['model']
    """
    place = Path(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f"{place.name}.{secrets.token_hex(8)}.partial")
    new.mkdir()
    try:
        yield new
        if not place.is_dir():
            new.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)

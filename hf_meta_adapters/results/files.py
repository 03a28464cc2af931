"""Files that are written as a whole, and never into a file that lies elsewhere."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: str | os.PathLike[str], *, ending: str = ".partial") -> Iterator[Path]:
    """Give a new file beside a path, and move it to that path when it has been written.

    The path may be a link, or one of several names of a file: it then becomes a file of its own,
    and the other file stays as it is. If writing fails, the path stays as it was.

    Args:
        path: Where the file will be. What is no file, such as `/dev/stdout`, is
            written to directly.
        ending: The ending of the new file, by which matplotlib chooses the format.

    Yields:
        The file to write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "note.txt")) as new:
        ...         _ = new.write_text("Hapo mwanzo")
        ...     [path.name for path in Path(folder).iterdir()]
        ['note.txt']
    """
    place = Path(path)
    if place.exists() and not place.is_file():
        yield place
        return

    # Under a name that nobody can have made a link of beforehand.
    new = place.with_name(f"{place.name}.{secrets.token_hex(8)}{ending}")
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    try:
        if place.is_file() and not place.is_symlink():
            shutil.copymode(place, new)
        yield new
        os.replace(new, place)
    finally:
        new.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as a whole, in UTF-8, with a line break at its end.

    Args:
        path: The file; folders that are missing are created.
        text: The text.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)

    with replacing(path) as new:
        new.write_text(text.rstrip("\n") + "\n", encoding="utf-8")

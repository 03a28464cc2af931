"""Texts without the places that they name: absolute paths tell the machine, and whose it is."""

from __future__ import annotations

import getpass
import re
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_PART = r"[^\s\"'`<>|/\\]"
_ABSOLUTE = re.compile(
    rf"(?<![\w.~:/\\-])(?:file:)?(?:~|[A-Za-z]:)?[/\\]+(?:{_PART}+[/\\]+)+{_PART}*"
)
"""An absolute path of at least two parts inside of a text; a URL is none."""

_OF_USERS = ("home", "Users")
_SOMEBODY = "~"
"""What stands in place of the name of a user or a machine."""


def without_places(value: Any, folder: Path | None = None) -> Any:
    """JSON in which absolute paths are cut to what says nothing about the machine.

    A path inside `folder` becomes relative to it. Of any other path only the last part is left.

    Args:
        value: JSON: texts, numbers, lists and dictionaries; anything else stays as it is.
        folder: The folder that the JSON belongs to.

    Returns:
        The JSON without places.

    Example:
        >>> without_places({"dataset": "/data/texts/sw.txt", "url": "https://example.com/a/b"})
        {'dataset': 'sw.txt', 'url': 'https://example.com/a/b'}
    """
    if isinstance(value, str):
        return _without_places(value, folder)
    if isinstance(value, (list, tuple)):
        return [without_places(entry, folder) for entry in value]
    if isinstance(value, Mapping):
        items = value.items()
        return {without_places(key, folder): without_places(entry, folder) for key, entry in items}

    return value


def is_absolute(text: str) -> bool:
    """Whether a text is an absolute path, of whichever operating system."""
    path = text.removeprefix("file:")
    if path.startswith(("~/", "~\\")):
        return True

    # a lone "/" is a sign of punctuation
    known = PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    return known and len(path) > 1


def _without_places(text: str, folder: Path | None) -> str:
    found = text

    # By name first: the parts of a path may have spaces, so that nothing tells where it ends.
    if folder is not None:
        for place in {str(folder.resolve()), str(folder.absolute())}:
            found = re.sub(rf"{re.escape(place)}(?:/|$)", "", found)

    if is_absolute(found) and not re.search(r"\s", found):
        found = _last_part(found)
    else:
        for place in _places_with_spaces():
            found = re.sub(rf"{re.escape(place)}(?:[/\\]|\b)", "", found)
        found = _ABSOLUTE.sub(lambda path: _last_part(path[0]), found)

    if found == text:
        return text  # the name of a machine may be a word, and even that of a language

    # What is left of a path may still have them, as the folder of a log does.
    for name in _names_of_this_machine():
        found = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", _SOMEBODY, found)
    return found or "."


def _last_part(path: str) -> str:
    """The last part of a path, unless that is the folder of a user."""
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    if len(parts) > 1 and parts[-2] in _OF_USERS:
        return _SOMEBODY

    return parts[-1] if parts else _SOMEBODY


def _places_with_spaces() -> list[str]:
    """Folders of this machine whose end in a text cannot be seen, the longest first."""
    places = {str(Path.cwd()), tempfile.gettempdir(), str(Path.home())}
    return sorted((place for place in places if " " in place), key=len, reverse=True)


def _names_of_this_machine() -> set[str]:
    names = {socket.gethostname(), Path.home().name}

    # In a container, a user may have a number and no name.
    with suppress(ImportError, KeyError, OSError):
        names.add(getpass.getuser())

    return names - {""}

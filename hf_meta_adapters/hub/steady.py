"""Reading one save of a model, even while its folder is being saved over."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._folder_lock import locked
from hf_meta_adapters.hub._needed_files import needed_files
from hf_meta_adapters.hub._staging import PATIENCE, complete, recover
from hf_meta_adapters.hub.download import local_folder
from hf_meta_adapters.hub.manifest import MANIFEST, read_manifest

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Read = TypeVar("_Read")
_Stamp = dict[str, tuple[int, ...]]

_ATTEMPTS = 3
_PAUSE = 0.1
"""Seconds before a folder that is being saved over is looked at again."""


def reads_one_save(method: _Method) -> _Method:
    """A method whose first argument is a saved model, and which reads files of one save only.

    Args:
        method: It is called again if the folder has been saved over meanwhile.
    """
    # After `self` or `cls`; it may be passed by its name.
    first = list(signature(method).parameters)[1]

    @wraps(method)
    def reading(self: object, *args: Any, **options: Any) -> Any:
        source = args[0] if args else options.get(first, "")
        folder = local_folder(source)
        if folder is None:
            # A commit of a repository does not change.
            return method(self, *args, **options)

        return read_one_save(folder, lambda: method(self, *args, **options))

    return cast(_Method, reading)


def read_one_save(folder: Path, read: Callable[[], _Read]) -> _Read:
    """What `read` makes of the files of a saved model, all of which are of one save.

    A save replaces file after file. It waits for a reader where folders can be locked; elsewhere,
    or where the reader is too slow, the reader notices and begins again.

    Args:
        folder: The folder of a saved model.
        read: Reads it; may be called several times.

    Raises:
        HubError: If the folder is saved over again and again.
    """
    start, attempts, waited = time.monotonic(), 0, 0.0
    # A large model, which takes long to read, has a second and a third attempt as well.
    while waited < 2 * PATIENCE or 0 < attempts < _ATTEMPTS:
        recover(folder, waited=waited > PATIENCE)

        with locked(folder, exclusive=False, patience=PATIENCE) as lock:
            before = _stamp(folder)
            # A process that saves, and cannot be locked out, may be in the midst of it.
            if lock == "held" or not complete(folder):
                attempts += 1
                try:
                    result = read()
                except Exception:
                    # Half of one save and half of another can fail in any way.
                    if _stamp(folder) == before and not complete(folder):
                        raise
                else:
                    if _stamp(folder) == before:
                        return result

        time.sleep(_PAUSE)
        waited = time.monotonic() - start

    raise HubError(
        f"A saved model must stay as it is while it is loaded. Found {folder} saved over again and"
        " again. Load it when nobody saves into it, or load a copy."
    )


def _stamp(folder: Path) -> _Stamp:
    """What tells whether a file of the model has been replaced, by its path in the folder."""
    paths = [MANIFEST]
    try:
        family = read_manifest(folder)
    except HubError:
        # Its file alone tells when there is another one.
        pass
    else:
        weights, texts = needed_files(family, family.languages)
        paths += [*weights, *texts]

    stamp: _Stamp = {}
    for path in paths:
        try:
            found = (folder / path).stat()
        except OSError:
            continue
        stamp[path] = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return stamp

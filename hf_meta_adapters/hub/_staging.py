"""Saving over a model: written beside its place as a whole, then moved into it, file by file.

A folder that holds other things as well cannot be exchanged in one step. So the new model is
complete before the first file of the old one goes, its manifest moves last, and a process that is
killed in between leaves everything that somebody else needs to finish.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from secrets import token_hex

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._folder_lock import locked
from hf_meta_adapters.hub._needed_files import INDEX, adapter_folders, needed_files, shard_names
from hf_meta_adapters.hub.links import check_no_links
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest, write_manifest
from hf_meta_adapters.hub.record import COSINES

PATIENCE = 5.0
"""Seconds that a save waits for readers before it goes on, and a reader for a save."""


def save_over(folder: Path, write: Callable[[Path], str]) -> None:
    """Save a model beside its place, and then let it take the place of the one that is there.

    Args:
        folder: The place; created if it is missing. Files that belong to no model stay in it. If
            `write` fails, everything stays as it is.
        write: Writes the model into a new folder, and returns the text of its manifest.

    Raises:
        HubError: If another process saves into the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    staging = folder / f"{MANIFEST}.{token_hex(4)}.partial"
    staging.mkdir()

    # Libraries create a folder that is missing: this file tells that nobody has deleted it.
    unwritten = staging / f"{MANIFEST}.partial"
    unwritten.touch()

    # Held while this process lives: that tells others a save in progress from an interrupted one.
    with locked(staging, exclusive=True):
        try:
            text = write(staging)
            if not unwritten.is_file():
                raise _taken_away(folder)
            # At the very end: the manifest says that everything else is there.
            write_manifest(staging, text)
        except BaseException as error:
            is_lost = not unwritten.is_file()
            shutil.rmtree(staging, ignore_errors=True)
            if is_lost and isinstance(error, OSError):
                raise _taken_away(folder) from error
            raise

        with locked(folder, exclusive=True, patience=PATIENCE):
            _finish(staging, folder)


def complete(folder: Path) -> list[Path]:
    """Models that were written beside their place in a folder, but are not moved yet, or not all.

    Args:
        folder: The folder of a saved model.
    """
    # The manifest is the last that is written, and the last that moves.
    return [path for path in _leftovers(folder) if os.path.isfile(path / MANIFEST)]


def recover(folder: Path, *, waited: bool) -> None:
    """Finish a save that was interrupted while its files were being moved.

    Args:
        folder: The folder of a saved model.
        waited: Whether a save whose process cannot be seen has had the time to finish.

    Raises:
        HubError: If the folder cannot be written.
    """
    for staging in complete(folder):
        with locked(staging, exclusive=True) as lock:
            is_alive = lock == "busy" or (lock == "unknown" and not waited)
            if is_alive:
                continue

            try:
                with locked(folder, exclusive=True, patience=PATIENCE):
                    _finish(staging, folder)
            except OSError as error:
                raise HubError(
                    "A model must be saved completely before it is loaded. Found in"
                    f" {folder} a save that was interrupted, and that cannot be finished:"
                    f" {error}. Load the model once where you may write into the folder, or save it"
                    " again."
                ) from error


def _clear(folder: Path) -> None:
    """Finish or delete what interrupted saves have left behind."""
    # What cannot be finished is replaced by the model that is being saved.
    with suppress(HubError):
        recover(folder, waited=True)

    for path in _leftovers(folder):
        with locked(path, exclusive=True) as lock:
            if lock != "busy":
                shutil.rmtree(path, ignore_errors=True)

    # An earlier version wrote the manifest alone beside its place.
    (folder / f"{MANIFEST}.partial").unlink(missing_ok=True)


def _leftovers(folder: Path) -> list[Path]:
    found = folder.glob(f"{MANIFEST}.*.partial")
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _finish(staging: Path, folder: Path) -> None:
    """Move a complete model to its place, and delete what only the model before it had."""
    if not os.path.isfile(staging / MANIFEST):
        # Another process has done it.
        return

    family = read_manifest(staging)
    paths = _files(staging)
    # No file may move into a folder elsewhere: a link may have come since `write` was called.
    places = {str(place) for path in paths for place in PurePosixPath(path).parents} - {"."}
    check_no_links(folder, sorted({*places, *adapter_folders(family, family.languages)}))

    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)

    for path in paths:
        _move(staging / path, folder / path)
    for path in _stale(folder, family):
        (folder / path).unlink(missing_ok=True)
        if "/" in path:
            # Not empty if somebody has put files of their own there.
            with suppress(OSError):
                (folder / path).parent.rmdir()

    _move(staging / MANIFEST, folder / MANIFEST)
    shutil.rmtree(staging, ignore_errors=True)


def _files(staging: Path) -> list[str]:
    """The files that move before the manifest does."""
    files = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()]
    return sorted(path for path in files if path != MANIFEST)


def _stale(folder: Path, family: Family) -> list[str]:
    """The files of the model that is being replaced which the new one does not have."""
    # The manifest lists the files: those that were moved before an interruption must stay, too.
    new = {*family.files, *family.hashes}
    if "gradient_cosine_picture" in family.details:
        new.add(COSINES)

    # Left behind, shards or an index of a plain checkpoint would be taken for the new weights.
    old = {COSINES}
    if not family.base_model:
        old |= {INDEX, *shard_names(folder)}

    with suppress(HubError):
        before = read_manifest(folder)
        weights, texts = needed_files(before, before.languages)
        old |= {*weights, *texts}

    # The folder of a language that goes may be a link, behind which lies what is not ours.
    inside = {path for path in old if "/" not in path or not (folder / path).parent.is_symlink()}
    return sorted(path for path in inside - new if (folder / path).is_file())


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except FileNotFoundError:
        # Where folders cannot be locked, two processes may finish the same save.
        if source.exists():
            raise


def _taken_away(folder: Path) -> HubError:
    return HubError(
        f"One process at a time must save into a folder. Found that another one has saved into"
        f" {folder} meanwhile. Save in one process (`trainer.is_world_process_zero()`), or into"
        " different folders."
    )

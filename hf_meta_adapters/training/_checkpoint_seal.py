"""The seal of a checkpoint: `checkpoint.json`, with the size and the CRC-32 of every other file.

It is written last, so a folder with a valid seal is a complete checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._progress import ProgressState

SEAL = "checkpoint.json"

_FORMAT = 1
_BLOCK = 1 << 20


class CheckpointRecord(TypedDict):
    """What a run writes about itself into the seal.

    Attributes:
        step: The number of optimizer steps taken.
        model_only: Whether optimizer and random states were left out (`save_only_model`).
        settings: What decides which rows are read in which order (`run_settings`).
        optimizer: The optimizer's class and the shapes of its parameters (`optimizer_settings`).
        progress: The counts of `Progress`.
    """

    step: int
    model_only: bool
    settings: dict[str, object]
    optimizer: dict[str, object]
    progress: ProgressState


class Seal(CheckpointRecord):
    """The whole content of `checkpoint.json`.

    Attributes:
        format: The version of this layout.
        files: Path relative to the checkpoint → [size, CRC-32].
    """

    format: int
    files: dict[str, list[int]]


def seal(folder: Path, record: CheckpointRecord) -> None:
    """Write the seal and flush the checkpoint, file by file and folder by folder, to the disk.

    Args:
        folder: The folder of a checkpoint in which everything else has been written.
        record: What to record besides the files.
    """
    files = {path.relative_to(folder).as_posix(): _measure(path) for path in _files(folder)}
    text = json.dumps({"format": _FORMAT, **record, "files": files}, indent=1)
    (folder / SEAL).write_text(text + "\n", encoding="utf-8")

    # A rename is atomic, but it may reach the disk before the data of the files that it renames:
    # contents first, then the entries of the folders, the checkpoint's own folder last.
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    for path in [*_files(folder), folder / SEAL, *folders, folder]:
        flush(path)


def read_seal(folder: Path) -> Seal:
    """Read the seal and compare every file of the checkpoint with it.

    Args:
        folder: The folder of a checkpoint.

    Returns:
        What was recorded.

    Raises:
        CheckpointError: Naming the first file that is missing, truncated or altered.
    """
    content = read_record(folder)

    for name, (size, checksum) in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"no `{name}`")

        if path.stat().st_size != size:
            raise _damaged(folder, f"`{name}` with {path.stat().st_size} bytes instead of {size}")

        if _measure(path)[1] != checksum:
            raise _damaged(folder, f"`{name}` with other bytes than were written")

    return content


def read_record(folder: Path) -> Seal:
    """Read the seal without looking at the files that it lists.

    Args:
        folder: The folder of a checkpoint.

    Returns:
        What was recorded.

    Raises:
        CheckpointError: If there is no valid seal.
    """
    if not folder.is_dir():
        raise CheckpointError(
            "`resume_from_checkpoint` must be the folder of a checkpoint, or True for the newest"
            f" one. Found no folder {folder}. Pass for example `resume_from_checkpoint=True`."
        )

    if not (folder / SEAL).is_file():
        raise _damaged(folder, f"no `{SEAL}`, which is written last")

    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"a `{SEAL}` that is not JSON ({error})") from error

    return _checked(folder, content)


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot flush a folder; a file that cannot be flushed is a real failure.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _checked(folder: Path, content: object) -> Seal:
    """The content of a seal, if it is one."""
    if not isinstance(content, dict):
        raise _wrong_format(folder, content)
    if content.get("format") != _FORMAT:
        raise _wrong_format(folder, content.get("format"))

    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_inside(name) for name in files):
        raise _damaged(folder, f"a `{SEAL}` without a list of the files of this folder")

    return cast(Seal, content)


def _wrong_format(folder: Path, found: object) -> CheckpointError:
    return _damaged(folder, f"a `{SEAL}` of format {found!r}, where this version reads {_FORMAT}")


def _damaged(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"A checkpoint must be exactly what was written. Found in {folder} {found}. Resume from the"
        " checkpoint before it, or pass `resume_from_checkpoint=True` for the newest complete one."
    )


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL:
            yield path


def _measure(path: Path) -> list[int]:
    """The size and the CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)

    return [size, checksum]

"""Checkpoint folders: there as a whole or not at all, and known to be what was written.

A checkpoint is written to `<run>/_unfinished/checkpoint-<step>`, sealed with the sizes and
checksums of its files, and then renamed to `<run>/checkpoint-<step>`. What is killed before that
leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch.serialization import register_package

from hf_meta_adapters.errors import CheckpointError

SEAL = "checkpoint.json"
UNFINISHED = "_unfinished"  # transformers uploads nothing whose name begins so

_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")
_BLOCK = 1 << 20


def seal(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `checkpoint.json`, with the size and the CRC-32 of every other file, and flush all of it to the disk.

    Args:
        folder: The folder of a checkpoint in which everything else has been written.
        content: What else is to be recorded, JSON.
    """
    files = {path.relative_to(folder).as_posix(): _measure(path) for path in _files(folder)}
    (folder / SEAL).write_text(
        json.dumps({"format": _FORMAT, **content, "files": files}, indent=1) + "\n",
        encoding="utf-8",
    )
    for path in [
        *_files(folder),
        folder / SEAL,
        *(p for p in folder.rglob("*") if p.is_dir()),
        folder,
    ]:
        _flush(path)


def commit(folder: Path, run_dir: Path) -> Path:
    """Move a sealed checkpoint to its place, in one step; one of the same name is replaced.

    Args:
        folder: The checkpoint, in `<run_dir>/_unfinished`.
        run_dir: The folder of the run.

    Returns:
        The place.
    """
    place = run_dir / folder.name
    if place.exists():
        os.rename(place, _replaced(folder))
    os.rename(folder, place)
    _flush(run_dir)
    discard(run_dir)
    return place


def discard(run_dir: Path) -> None:
    """Delete what unfinished saves and deletions have left; a checkpoint whose replacement never came is put back."""
    unfinished = run_dir / UNFINISHED
    if not unfinished.is_dir():
        return
    for path in unfinished.glob("replaced-checkpoint-*"):
        place = run_dir / path.name.removeprefix("replaced-")
        if not place.exists():
            os.rename(path, place)
    shutil.rmtree(unfinished, ignore_errors=True)


@cache
def know_numbered_cpus() -> None:
    """Let `torch.load` read to "cpu:0", as transformers 4 calls the CPU where there are several processes."""
    register_package(
        30,
        lambda _: None,
        lambda storage, place: storage if re.fullmatch(r"cpu:\d+", place) else None,
    )


def remove(folder: Path, pattern: str) -> None:
    """Delete what matches a pattern in a checkpoint that is not sealed yet."""
    for path in folder.glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def rotate(run_dir: Path, limit: int | None, keep: set[Path]) -> None:
    """Delete the oldest checkpoints until `limit` are left.

    Args:
        run_dir: The folder of the run.
        limit: `save_total_limit`; `None` or 0 for none.
        keep: Checkpoints that are never deleted: the last one and the best one.
    """
    if not limit or limit < 0:
        return
    kept = {path.resolve() for path in keep}
    found = sorted(checkpoints(run_dir), key=lambda path: (path.stat().st_mtime_ns, _step(path)))
    old = [path for path in found if path.resolve() not in kept]
    for path in old[: max(0, len(found) - max(limit, len(kept)))]:
        gone = run_dir / UNFINISHED / f"deleted-{path.name}"
        gone.parent.mkdir(exist_ok=True)
        try:
            os.rename(
                path, gone
            )  # a deletion that is broken off leaves no half of a checkpoint behind
        except OSError as error:
            warnings.warn(
                f"An old checkpoint stays, as it cannot be deleted: {error}", stacklevel=2
            )
    discard(run_dir)


def checkpoints(run_dir: Path) -> list[Path]:
    """The folders `checkpoint-<step>` of a run, by step."""
    found = [
        path
        for path in run_dir.glob("checkpoint-*")
        if path.is_dir() and _NAME.fullmatch(path.name)
    ]
    return sorted(found, key=_step)


def newest(run_dir: Path) -> tuple[Path, list[str]]:
    """Find the newest checkpoint that is complete and undamaged.

    Args:
        run_dir: The folder of the run.

    Returns:
        It, and what is wrong with those after it.

    Raises:
        CheckpointError: If there is none.
    """
    wrong: list[str] = []
    for path in reversed(checkpoints(run_dir)):
        try:
            read_seal(path)
        except CheckpointError as error:
            wrong.append(str(error))
        else:
            return path, wrong
    found = " ".join(wrong) or f"none in {run_dir}."
    raise CheckpointError(
        f"A run can only go on from a checkpoint. Found {found} Write `resume_from_checkpoint=None`"
        " to start it anew."
    )


def read_seal(folder: Path) -> dict[str, Any]:
    """Read `checkpoint.json` and compare every file of the checkpoint with it.

    Args:
        folder: The folder of a checkpoint.

    Returns:
        What was recorded.

    Raises:
        CheckpointError: Naming the first file that is missing, truncated or altered.
    """
    content = _content(folder)
    for name, (size, checksum) in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"no `{name}`")
        if path.stat().st_size != size:
            raise _damaged(folder, f"`{name}` with {path.stat().st_size} bytes in place of {size}")
        if _measure(path)[1] != checksum:
            raise _damaged(folder, f"`{name}` with other bytes than were written")
    return content


def _content(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(
            "`resume_from_checkpoint` must be the folder of a checkpoint, or True for the newest"
            f" one. Found no folder {folder}. Write for example `resume_from_checkpoint=True`."
        )
    if not (folder / SEAL).is_file():
        raise _damaged(folder, f"no `{SEAL}`, which is written last")
    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"a `{SEAL}` that is no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise _damaged(
            folder, f"a `{SEAL}` of format {found!r}, where this version reads {_FORMAT}"
        )
    files = content.get("files")
    if not isinstance(files, dict) or not all(_inside(name) for name in files):
        raise _damaged(folder, f"a `{SEAL}` without a list of the files of this folder")
    return content


def _damaged(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"A checkpoint must be as it was written. Found in {folder} {found}. Take the checkpoint"
        " before it, or write `resume_from_checkpoint=True` for the newest one that is complete."
    )


def _inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL)


def _measure(path: Path) -> list[int]:
    """The size and the CRC-32 of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _flush(path: Path) -> None:
    """Wait until the disk has a file, or the entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems cannot, for folders
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"replaced-{folder.name}")


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))

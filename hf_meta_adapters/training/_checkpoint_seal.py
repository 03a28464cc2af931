"""The seal of a checkpoint: `checkpoint.json`, with the size and the CRC-32 of every other file.

It is written last, so a folder with a valid seal is a complete checkpoint.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypedDict, cast

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.hub.seal_text import seal_checksum, sealed
from hf_meta_adapters.training._progress import ProgressState

if TYPE_CHECKING:
    from typing_extensions import NotRequired

SEAL = "checkpoint.json"

_FORMAT = 1
_BLOCK = 1 << 20

_MODEL = {"weights": "*.safetensors", "the manifest": "language_adapters.json"}
_RUN = {
    "the optimizer": "optimizer*",  # of a sharded one, a folder or a `.bin`
    "the schedule": "scheduler.pt",
    "random numbers": "rng_state*.pth",
    "the state of the Trainer": "trainer_state.json",
}
"""What it is, for the message → the pattern of its files."""
_READ = (*_RUN.values(), "scaler.pt")  # by name, listed or not


class CheckpointRecord(TypedDict):
    """What a run writes about itself into the seal.

    Attributes:
        step: The number of optimizer steps taken.
        model_only: Whether optimizer and random states were left out (`save_only_model`).
        settings: What decides which rows are read in which order (`run_settings`).
        optimizer: The optimizer's class and the shapes of its parameters (`optimizer_settings`).
        progress: The counts of `Progress`.
        optimizer_states: How many parameters have a state in the optimizer.
        evaluation_due: Whether the step was to be evaluated, but the run had to stop.
    """

    step: int
    model_only: bool
    settings: dict[str, object]
    optimizer: dict[str, object]
    progress: ProgressState
    optimizer_states: NotRequired[int]  # earlier versions have neither
    evaluation_due: NotRequired[bool]


class Seal(CheckpointRecord):
    """The whole content of `checkpoint.json`.

    Attributes:
        format: The version of this layout.
        files: Path relative to the checkpoint → [size, CRC-32].
        checksum: The CRC-32 of all the rest; earlier versions have none.
    """

    format: int
    files: dict[str, list[int]]
    checksum: NotRequired[int]


def seal(folder: Path, record: CheckpointRecord, *, whole: bool = True) -> None:
    """Write the seal and flush the checkpoint, file by file and folder by folder, to the disk.

    Args:
        folder: The folder of a checkpoint in which everything else has been written.
        record: What to record besides the files.
        whole: Whether the folder holds all parts. On a machine that does not save, with a disk of
            its own, it holds the random numbers of its processes alone.

    Raises:
        FileNotFoundError: If a part was not written without which no run can go on.
    """
    files = {path.relative_to(folder).as_posix(): _measure(path) for path in _files(folder)}
    missing = _missing(files, model_only=record["model_only"])
    if missing and whole:
        raise FileNotFoundError(missing)

    content = {"format": _FORMAT, **record, "files": files}
    (folder / SEAL).write_text(sealed(content), encoding="utf-8")

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
    missing = _missing(content["files"], model_only=content["model_only"])
    if missing:
        raise _damaged(folder, missing)

    # A file that came later would be read as well.
    for pattern in _READ:
        for path in folder.glob(pattern):
            if path.is_file() and path.name not in content["files"]:
                raise _damaged(folder, f"`{path.name}`, which was not written with it")

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
    except (ValueError, RecursionError) as error:  # the second one of lists in lists in lists …
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
    if not isinstance(files, dict) or not all(_is_file(*entry) for entry in files.items()):
        raise _damaged(folder, f"a `{SEAL}` without a list of the files of this folder")

    for name, kind in _KINDS.items():
        if type(content.get(name)) is not kind:
            raise _damaged(folder, f"a `{SEAL}` whose `{name}` is {content.get(name)!r}")

    if not _is_progress(content["progress"]):
        raise _damaged(folder, f"a `{SEAL}` without the counts of a run in `progress`")

    if content.get("checksum", seal_checksum(content)) != seal_checksum(content):
        raise _damaged(folder, f"a `{SEAL}` with other entries than were written")

    return cast(Seal, content)


_KINDS = {"step": int, "model_only": bool, "settings": dict, "optimizer": dict, "progress": dict}


def _is_progress(content: Mapping[str, object]) -> bool:
    """Whether this is a `ProgressState`."""
    seen = content.get("examples_seen")
    if not isinstance(seen, dict) or not all(isinstance(one, dict) for one in seen.values()):
        return False

    counts = [count for of_role in seen.values() for count in of_role.values()]
    counts += [content.get("nonfinite_steps"), content.get("overflow_steps", 0)]
    return all(type(count) is int for count in counts)


def _missing(names: Collection[str], *, model_only: bool) -> str | None:
    """What a checkpoint of these files lacks, if anything.

    transformers goes on without what it does not find.
    """
    top = {PurePosixPath(name).parts[0] for name in names}
    parts = {**_MODEL}
    if not model_only:
        parts.update(_RUN)

    for part, pattern in parts.items():
        found = top
        if part == "weights":  # in the folder of a language, or of what all share
            found = {PurePosixPath(name).name for name in names}
        if not any(PurePosixPath(name).match(pattern) for name in found):
            return f"nothing of {part} (`{pattern}`)"

    return None


def _wrong_format(folder: Path, found: object) -> CheckpointError:
    return _damaged(folder, f"a `{SEAL}` of format {found!r}, where this version reads {_FORMAT}")


def _damaged(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"A checkpoint must be exactly what was written. Found in {folder} {found}. Resume from the"
        " checkpoint before it, or pass `resume_from_checkpoint=True` for the newest complete one."
    )


def _is_file(name: str, entry: object) -> bool:
    """Whether an entry of the list of files is one: a path inside the folder, and two numbers."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not name:
        return False
    return isinstance(entry, list) and [type(number) for number in entry] == [int, int]


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

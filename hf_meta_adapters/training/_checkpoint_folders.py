"""The folders of a run: a checkpoint is in its place as a whole or not at all.

A checkpoint is written to `<run>/_unfinished/checkpoint-<step>`, sealed (`_checkpoint_seal`), and
then renamed to `<run>/checkpoint-<step>`. A process that is killed before the rename leaves the
earlier checkpoints untouched.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._checkpoint_seal import Seal, flush, read_seal

UNFINISHED = "_unfinished"  # transformers never uploads a name that begins with an underscore

_NAME = re.compile(r"checkpoint-(\d+)")
_REPLACED = "replaced-"


def commit(folder: Path, run_dir: Path) -> Path:
    """Move a sealed checkpoint to its place in one step, replacing one of the same name.

    Args:
        folder: The checkpoint, in `<run_dir>/_unfinished`.
        run_dir: The folder of the run.

    Returns:
        Its place.
    """
    place = run_dir / folder.name

    # A folder cannot be renamed over another one. If the process dies between the two renames,
    # `discard` puts the old checkpoint back.
    if place.exists():
        os.rename(place, folder.with_name(_REPLACED + folder.name))
    os.rename(folder, place)

    flush(run_dir)
    discard(run_dir)
    return place


def discard(run_dir: Path) -> None:
    """Delete what interrupted saves and deletions have left behind.

    A checkpoint that was moved aside, and whose replacement never came, is put back.
    """
    unfinished = run_dir / UNFINISHED
    if not unfinished.is_dir():
        return

    for path in unfinished.glob(f"{_REPLACED}checkpoint-*"):
        place = run_dir / path.name.removeprefix(_REPLACED)
        if not place.exists():
            os.rename(path, place)

    shutil.rmtree(unfinished, ignore_errors=True)


def rotate(run_dir: Path, limit: int | None, keep: set[Path]) -> None:
    """Delete the oldest checkpoints until `limit` are left.

    Args:
        run_dir: The folder of the run.
        limit: `save_total_limit`; `None` or 0 for no limit.
        keep: Checkpoints that are never deleted: the last one and the best one.
    """
    if not limit or limit < 0:
        return

    kept = {path.resolve() for path in keep}
    every = _by_age(run_dir)
    deletable = [path for path in every if path.resolve() not in kept]
    surplus = max(0, len(every) - max(limit, len(kept)))

    for path in deletable[:surplus]:
        # Moved away first: an interrupted deletion must not leave half a checkpoint in its place.
        aside = run_dir / UNFINISHED / f"deleted-{path.name}"
        aside.parent.mkdir(exist_ok=True)
        try:
            os.rename(path, aside)
        except OSError as error:
            warnings.warn(f"An old checkpoint cannot be deleted and stays: {error}", stacklevel=2)

    discard(run_dir)


def checkpoints(run_dir: Path) -> list[Path]:
    """The folders `checkpoint-<step>` of a run, by step."""
    folders = [path for path in run_dir.glob("checkpoint-*") if path.is_dir()]
    return sorted((path for path in folders if _NAME.fullmatch(path.name)), key=_step)


def last_checkpoint(run_dir: Path) -> str:
    """A sentence for error messages: which checkpoint was written last.

    By time, not by step: the folder may hold checkpoints of an earlier run that went further.
    """
    every = _by_age(run_dir)
    if not every:
        return "No checkpoint was saved yet."
    return f"The last checkpoint is {every[-1]}."


def newest(run_dir: Path, is_own: Callable[[Seal], bool] | None = None) -> tuple[Path, list[str]]:
    """Find the newest checkpoint of a run, by step, that is complete and undamaged.

    Args:
        run_dir: The folder of the run.
        is_own: Whether a checkpoint is one of the run; by default each is.

    Returns:
        The checkpoint, and what is wrong with those after it.

    Raises:
        CheckpointError: If there is none.
    """
    problems: list[str] = []
    for path in reversed(checkpoints(run_dir)):
        try:
            content = read_seal(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue

        if is_own is None or is_own(content):
            return path, problems
        problems.append(
            f"{path} is not of the run that was started last in this folder: to go on with it, pass"
            " its path."
        )

    found = " ".join(problems) or f"none in {run_dir}."
    raise CheckpointError(
        f"A run can only be resumed from a checkpoint. Found {found} Pass"
        " `resume_from_checkpoint=None` to start from the beginning."
    )


def _by_age(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, the one written last at the end."""
    return sorted(checkpoints(run_dir), key=lambda path: (path.stat().st_mtime_ns, _step(path)))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))

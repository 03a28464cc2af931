"""The folder of a run: one run at a time writes to it, and whose checkpoints it holds is known."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.training._checkpoint_folders import checkpoints, discard
from hf_meta_adapters.training._checkpoint_seal import Seal, read_record
from hf_meta_adapters.training._run_lock import RunLock

RUN = "_run.json"
"""Which checkpoints are those of the run that was started last, where others are in the folder."""

PATIENCE = 5.0
"""Seconds to wait for the lock: a killed process takes a while to give back its memory."""

_EARLIER_VERSION = ""  # as the name of a run; its checkpoints have none


class RunFolder:
    """The output folder of a run, and the run's name.

    A run that is resumed gets another name from there on, since it may be resumed from an earlier
    checkpoint than the last, with another learning rate. Checkpoints record the name, and those of
    the runs before it. Where a folder holds checkpoints that do not belong to the run that was
    started last, `_run.json` says which do.

    Args:
        args: The arguments of the run.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args
        self._name = uuid.uuid4().hex
        self._ancestors: dict[str, int] = {}

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(str(self._args.output_dir))

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context in which no other run writes to the folder. All processes enter it together.

        Raises:
            CheckpointError: On all processes, if another run holds the folder.
        """
        lock = RunLock(self.path, PATIENCE)
        said = [uuid.uuid4().hex, ""]
        try:
            if self._args.process_index == 0:
                said[1] = lock.acquire() or ""
            if self._args.world_size > 1:
                broadcast_object_list(said)

            self._name, problem = said
            if problem:
                raise CheckpointError(problem)

            # The process that writes tidies up after a killed run, before others look for
            # checkpoints.
            if self._args.should_save:
                discard(self.path)
            yield

            if self._args.should_save:
                self._mark()
        finally:
            lock.release()

    def begin(self, record: Mapping[str, object] | None, step: int = 0) -> None:
        """Make the run the last one of the folder.

        Args:
            record: What the checkpoint recorded that it is resumed from; `None` for a new run.
            step: The step of that checkpoint.
        """
        self._ancestors = {}
        if record is not None:
            ancestors = record.get("ancestors")
            if isinstance(ancestors, dict):
                self._ancestors.update(ancestors)
            self._ancestors[_name_in(record)] = step

        if self._args.should_save:
            self._mark()

    def sign(self) -> dict[str, object]:
        """What a checkpoint records: the name of its run, and earlier name → last step."""
        return {"name": self._name, "ancestors": self._ancestors}

    def owns(self, seal: Seal) -> bool:
        """Whether a checkpoint belongs to the run that was started last in the folder."""
        last = _read(self.path / RUN)
        return last is None or _belongs(seal, last["name"], last["ancestors"])

    def _mark(self) -> None:
        """Write whose checkpoints are whose, if there are those of another run."""
        foreign = False
        for place in checkpoints(self.path):
            try:
                seal = read_record(place)
            except (CheckpointError, OSError):
                continue  # no run resumes from it
            foreign = foreign or not _belongs(seal, self._name, self._ancestors)

        place = self.path / RUN
        if not foreign:
            place.unlink(missing_ok=True)
            return

        try:
            write_text(place, json.dumps(self.sign(), indent=1))
        except OSError as error:
            warnings.warn(
                f"Which checkpoints in {self.path} are of this run cannot be recorded: {error}."
                " `resume_from_checkpoint=True` may take one of another run.",
                stacklevel=6,
            )


def of_run(seal: Seal) -> Mapping[str, object]:
    """What a checkpoint recorded of its run (`RunFolder.sign`); nothing in an earlier version."""
    record = seal["settings"].get("run")
    return record if isinstance(record, dict) else {}


def _belongs(seal: Seal, name: str, ancestors: Mapping[str, int]) -> bool:
    found = _name_in(of_run(seal))
    return found == name or seal["step"] <= ancestors.get(found, -1)


def _name_in(record: Mapping[str, object]) -> str:
    return str(record.get("name", _EARLIER_VERSION))


def _read(place: Path) -> dict[str, Any] | None:
    """What the last run wrote, if that is known."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

    # A file that somebody else has written says nothing.
    if isinstance(content, dict) and isinstance(content.get("ancestors"), dict):
        return {"name": None, **content}
    return None

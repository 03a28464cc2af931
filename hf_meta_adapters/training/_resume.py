"""Resuming a run: from which checkpoint, and whether that is a checkpoint of the same run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch.serialization import register_package

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.hub.manifest import read_manifest
from hf_meta_adapters.training._checkpoint_folders import newest
from hf_meta_adapters.training._checkpoint_seal import Seal, read_seal
from hf_meta_adapters.training._model_settings import BASE
from hf_meta_adapters.training._run_folder import RunFolder
from hf_meta_adapters.training._run_settings import RunParts, current_names
from hf_meta_adapters.training._same_run import Settings, check_settings

if TYPE_CHECKING:
    from torch.serialization import STORAGE

# What `torch.load` and `load_state_dict` raise for a file that holds something else.
_READING = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError)


def find_checkpoint(
    folder: RunFolder, requested: str | bool, parts: RunParts, current: Settings
) -> tuple[Path, Seal]:
    """Find the checkpoint to resume from and check all that needs no optimizer.

    Args:
        folder: The folder of the run.
        requested: The folder of a checkpoint, or `True` for the newest undamaged one of the run
            that was started last.
        parts: The run that wants to resume.
        current: Its settings.

    Returns:
        The checkpoint, and what it recorded.

    Raises:
        CheckpointError: If it is damaged, of another run, or holds no optimizer.
    """
    if requested is True:
        place, problems = newest(folder.path, folder.owns)
        if problems:
            warnings.warn(
                f"The run resumes from {place}, the newest complete checkpoint."
                f" {' '.join(problems)}",
                stacklevel=4,
            )
    else:
        place = Path(str(requested))

    # The order of the checks: a whole checkpoint, one that can be resumed, one of this run.
    seal = read_seal(place)
    if seal.get("model_only"):
        raise CheckpointError(
            "A run can only be resumed from a checkpoint that holds its optimizer. Found in"
            f" {place} one of `save_only_model=True`. Start a new run from its weights:"
            " `model.load_weights(...)`."
        )

    saved = _recorded(place, seal)
    check_settings(place, saved, current, parts.fingerprints)
    return place, seal


def _recorded(place: Path, seal: Seal) -> dict[str, Any]:
    """What a checkpoint recorded of its run, and what its manifest adds to that."""
    saved: dict[str, Any] = current_names(seal["settings"])
    manifest = read_manifest(place)

    if "arguments" not in saved:
        # Earlier versions recorded the method alone, for the model card.
        method = manifest.details.get("training")
        saved["arguments"] = current_names(method) if isinstance(method, dict) else {}

    # A base that has no name is in the checkpoint, and is read from there.
    if not manifest.base_model and isinstance(saved.get("model"), dict):
        saved["model"] = {name: saved["model"][name] for name in saved["model"] if name != BASE}
    return saved


@contextmanager
def reading_optimizer(checkpoint: str, device: torch.device) -> Iterator[None]:
    """A context in which the states of optimizer and schedule are read.

    Args:
        checkpoint: The folder, for the message.
        device: Where they are read to.

    Raises:
        CheckpointError: If the states are those of another optimizer or schedule.
    """
    if device.type == "cpu" and device.index is not None:
        _let_torch_load_to_numbered_cpus()

    try:
        yield
    except _READING as error:
        raise CheckpointError(
            "A checkpoint must hold the state of this optimizer and schedule. Found in"
            f" {checkpoint} another one: {error}. Pass the Trainer the optimizer that the"
            " checkpoint was saved with."
        ) from error


@cache
def _let_torch_load_to_numbered_cpus() -> None:
    """Teach `torch.load` the location "cpu:0", as which several processes know the CPU.

    transformers 4 passes it as `map_location`; torch itself knows "cpu" alone. Registering a
    location is torch's way to extend `torch.load`, and cannot be undone; it changes nothing that
    could be loaded before.
    """

    def restore(storage: STORAGE, location: str) -> STORAGE | None:
        if re.fullmatch(r"cpu:\d+", location):
            return storage
        return None  # the next registered function is asked

    # Functions are asked in the order of their numbers; those of torch itself are below 30.
    register_package(30, lambda _: None, restore)

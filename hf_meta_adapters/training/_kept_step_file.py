"""The kept step of `lookahead="next"` in a checkpoint: one safetensors file a process."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters._typing import Batch, JsonObject, Language
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.steps.kept_state import KeptState

_NAME = "next_step_{process}.safetensors"
_BATCH = "batch/"


def write_kept_state(folder: Path, process: int, state: KeptState, *, sharded: bool) -> None:
    """Write the state of a kept step, as far as it is this process's to write.

    Args:
        folder: The folder of the checkpoint.
        process: The number of this process.
        state: The state.
        sharded: Whether parameters are sharded, so that no two processes have the same tensors.

    Raises:
        DataError: If a batch holds what cannot be written.
    """
    tensors, entries = _flat(state.batches)
    tensors |= state.own
    if sharded or process == 0:
        tensors |= state.common

    # safetensors refuses tensors that share their memory.
    separate = {name: entry.detach().clone().contiguous() for name, entry in tensors.items()}
    metadata = {"batches": json.dumps(entries), "share": repr(state.share)}
    metadata["how"] = json.dumps([state.mixed_rows, state.is_compared, state.languages_per_pass])
    save_file(separate, str(folder / _NAME.format(process=process)), metadata)


def read_kept_state(folder: Path, process: int, processes: int) -> KeptState | None:
    """Read the state of a kept step.

    Args:
        folder: The folder of the checkpoint.
        process: The number of this process.
        processes: How many there are.

    Returns:
        The state, or `None` if the checkpoint holds none.
    """
    written = len(list(folder.glob(_NAME.format(process="*"))))
    if not written:
        return None

    # Each process has kept its rows, which cannot be dealt anew.
    if written != processes:
        warnings.warn(
            f"The checkpoint {folder} was written by {written} processes, and is read by"
            f" {processes}. The first step therefore has no indirect part: what was kept of the"
            " step before belongs to the rows of each process.",
            stacklevel=2,
        )
        return None

    own, metadata = _read(folder / _NAME.format(process=process))
    common: dict[str, Tensor] = {}
    if "point/0" not in own:
        first, _ = _read(folder / _NAME.format(process=0))
        common = {name: entry for name, entry in first.items() if _is_common(name)}

    batches = _unflat(own, json.loads(metadata["batches"]))
    rest = {name: entry for name, entry in own.items() if not name.startswith(_BATCH)}
    # Early checkpoints do not say it: theirs is what the arguments say.
    how = json.loads(metadata.get("how", "[null, false, null]"))
    return KeptState(batches, rest, common, float(metadata["share"]), *how)


def _is_common(name: str) -> bool:
    """Whether a tensor is one of `KeptState.common`."""
    return name.split("/")[-2] in ("point", "derivative") and not name.startswith(_BATCH)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(str(path), framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata()


def _flat(
    batches: Mapping[Language, Sequence[Batch]],
) -> tuple[dict[str, Tensor], JsonObject]:
    """The tensors of batches by name, and everything else as JSON."""
    tensors: dict[str, Tensor] = {}
    entries: JsonObject = {}

    for language, several in batches.items():
        entries[language] = []
        for number, batch in enumerate(several):
            others = {}
            for name, value in batch.items():
                if isinstance(value, Tensor):
                    tensors[f"{_BATCH}{language}/{number}/{name}"] = value
                else:
                    others[name] = _checked(name, value)
            entries[language].append(others)

    return tensors, entries


def _checked(name: str, value: object) -> object:
    """A value that JSON gives back as it is."""
    try:
        if json.loads(json.dumps(value)) == value:
            return value
    except (TypeError, ValueError):
        pass

    raise DataError(
        '`lookahead="next"` saves the batches of the last step in checkpoints: tensors, numbers,'
        f" text and lists of these. Found {type(value).__name__} under {name!r}. Have the collator"
        " leave it out, or return a tensor."
    )


def _unflat(tensors: Mapping[str, Tensor], entries: JsonObject) -> dict[Language, list[Batch]]:
    """What `_flat` was given."""
    batches: dict[Language, list[Batch]] = {}
    for language, several in entries.items():
        batches[language] = []
        for number, others in enumerate(several):
            prefix = f"{_BATCH}{language}/{number}/"
            found = {
                name.removeprefix(prefix): entry
                for name, entry in tensors.items()
                if name.startswith(prefix)
            }
            batches[language].append({**found, **others})

    return batches

"""Whether a model still is what the files of its base say, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))

_NO_EFFECT = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Settings that `from_pretrained` writes itself, is given again, or that change no output."""

_TOKENS = {"bos_token_id", "eos_token_id", "pad_token_id"}
"""Settings that users add for `generate`; of all models, classifiers of sequences compute with
them."""


_Rows = Mapping[int, Collection[int]]
_NO_ROWS: _Rows = MappingProxyType({})


def is_same_base(
    base: transformers.PreTrainedModel,
    state: Mapping[str, Tensor],
    folder: Path,
    rows: _Rows = _NO_ROWS,
) -> bool:
    """Compare a model with the checkpoint in a folder, of which one tensor is read at a time.

    Args:
        base: The model.
        state: Its tensors under the names of its own checkpoint, without adapters.
        folder: The folder of the checkpoint.
        rows: The address of the data of an embedding → rows that are saved elsewhere: they may
            differ, and may be more than the checkpoint has.

    Returns:
        Whether loading the folder gives this model: configuration, number types and all values.
        False where that cannot be told, such as for files that are not safetensors.
    """
    if not _has_same_config(base, folder, rows) or not _has_configured_types(base, state):
        return False

    try:
        with ExitStack() as stack:
            files = tensors_of(folder, stack)
            if files:
                return _compare(base, state, files, folder, rows)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError):
        pass  # such a folder could not be loaded either

    return False


def _compare(
    base: transformers.PreTrainedModel,
    state: Mapping[str, Tensor],
    files: Mapping[str, Any],
    folder: Path,
    rows: _Rows,
) -> bool:
    """Whether every tensor has the value of its file; tied names need one file."""
    is_quantized = getattr(base.config, "quantization_config", None) is not None
    found: set[int] = set()
    missing: list[Tensor] = []

    for name, tensor in state.items():
        # packed numbers are of another form than the file, and nothing trains them
        if is_quantized and not tensor.is_floating_point():
            continue

        file = next((files[each] for each in _names(base, name) if each in files), None)
        if file is None:
            missing.append(tensor)
            continue

        if not _equal(file(), tensor, rows):
            return False
        found.add(_identity(tensor))

    # scales of packed numbers are not in the file either
    if is_quantized or all(_identity(tensor) in found for tensor in missing):
        return True

    return _loads_same(base, state, folder, rows)


def _loads_same(
    base: transformers.PreTrainedModel, state: Mapping[str, Tensor], folder: Path, rows: _Rows
) -> bool:
    """Compare with a second model, where transformers renames or joins tensors as it loads them."""
    with torch.random.fork_rng():  # what a checkpoint lacks is drawn
        twin: Any = type(base).from_pretrained(
            str(folder), dtype=base.config.dtype, use_safetensors=True, local_files_only=True
        )

    loaded = twin.state_dict()
    return loaded.keys() == state.keys() and all(
        _equal(loaded[name], tensor, rows) for name, tensor in state.items()
    )


def _equal(saved: Tensor, tensor: Tensor, rows: _Rows) -> bool:
    """Whether a tensor of a file has the values of one of the model, in the type of the latter."""
    part: Any = tensor.detach()
    apart = rows.get(_identity(tensor))
    if apart is not None:
        return _equal_beside(saved, part, apart)

    if saved.shape != part.shape:
        return False
    if hasattr(part, "device_mesh"):
        # each process compares the part that it has
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, offset = compute_local_shape_and_global_offset(
            part.shape, part.device_mesh, part.placements
        )
        part = part.to_local()
        for dimension, (length, start) in enumerate(zip(shape, offset, strict=True)):
            saved = saved.narrow(dimension, start, length)

    return torch.equal(saved.to(part.device, part.dtype), part)


def _equal_beside(saved: Tensor, part: Tensor, apart: Collection[int]) -> bool:
    """Whether tables are equal in all rows that are not saved apart from the table."""
    if saved.shape[1:] != part.shape[1:] or len(saved) > len(part):
        return False

    kept = [row for row in range(len(part)) if row not in apart]
    if kept and kept[-1] >= len(saved):
        return False  # a new row that is saved nowhere
    return torch.equal(saved[kept].to(part.device, part.dtype), part[kept])


def _identity(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.numel() else id(tensor)


def _names(base: transformers.PreTrainedModel, name: str) -> Iterator[str]:
    """The names under which a checkpoint may hold a tensor."""
    prefix = f"{base.base_model_prefix}."
    for each in (name, f"{prefix}{name}", name.removeprefix(prefix)):
        yield each
        for old, new in _LEGACY:
            if each.endswith(new):
                yield each.removesuffix(new) + old


def tensors_of(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """The name of each tensor in a checkpoint → a function that reads it."""
    names = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    elif not (folder / _WEIGHTS).is_file():
        return {}

    tensors: dict[str, Any] = {}
    for name in names:
        file = stack.enter_context(safe_open(folder / name, framework="pt"))
        for key in file.keys():  # noqa: SIM118  (not a dictionary)
            tensors[key] = lambda file=file, key=key: file.get_tensor(key)

    return tensors


def _has_same_config(base: transformers.PreTrainedModel, folder: Path, rows: _Rows) -> bool:
    """Whether the configuration differs in nothing that changes an output."""
    try:
        saved = type(base.config).from_pretrained(str(folder)).to_dict()
    except (OSError, ValueError):
        return False

    ignored: set[str] = set()
    if not type(base).__name__.endswith("ForSequenceClassification"):
        ignored = {name for name in _TOKENS if saved.get(name) is None}

    # the number of rows; the tables themselves are compared
    if rows:
        ignored = ignored | {"vocab_size"}

    return _settings(base.config.to_dict(), ignored) == _settings(saved, ignored)


def _settings(content: Mapping[str, Any], ignored: set[str]) -> dict[str, Any]:
    """The settings of a configuration, and of those inside it, that matter, as JSON has them."""
    kept = {
        name: _settings(value, ignored) if isinstance(value, dict) else value
        for name, value in content.items()
        if name not in _NO_EFFECT | ignored
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def _has_configured_types(base: transformers.PreTrainedModel, state: Mapping[str, Tensor]) -> bool:
    """Whether loading in the configured number type gives each tensor the type that it has."""
    configured = getattr(base.config, "dtype", None)
    if isinstance(configured, str):
        configured = getattr(torch, configured, None)
    if configured is None or getattr(base.config, "quantization_config", None) is not None:
        return True

    # some models keep a few modules in float32
    kept: set[str] = set()
    for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        kept.update(getattr(base, attribute, None) or ())

    return all(
        tensor.dtype == configured or any(part in name for part in kept)
        for name, tensor in state.items()
        if tensor.is_floating_point()
    )

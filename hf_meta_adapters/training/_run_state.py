"""What of a checkpoint's run is read from files: it must fit, before a tensor of it is used.

torch itself loads moments of any shape into an optimizer, whose fused kernels then read and write
memory that is not theirs.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._checkpoint_seal import Seal, read_record
from hf_meta_adapters.training._surgery_state import SURGERY, check_surgery_file

_Shape = tuple[int, ...]

# What reading a file that holds something else ends in.
_READING = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError),
    *(AttributeError, IndexError, RecursionError, OverflowError),
)


def _whole(shape: _Shape) -> _Shape:
    return shape


_SHAPES: Mapping[str, Callable[[_Shape], _Shape]] = {
    **dict.fromkeys(("exp_avg", "exp_avg_sq", "exp_inf", "max_exp_avg_sq", "ax"), _whole),
    **dict.fromkeys(("momentum_buffer", "square_avg", "grad_avg", "acc_delta"), _whole),
    **dict.fromkeys(("sum", "prev", "step_size", "variance", "z"), _whole),
    # Adafactor of transformers, and of torch
    "exp_avg_sq_row": lambda shape: shape[:-1],
    "exp_avg_sq_col": lambda shape: (*shape[:-2], *shape[-1:]),
    "row_var": lambda shape: (*shape[:-1], 1),
    "col_var": lambda shape: (*shape[:-2], 1, *shape[-1:]),
}
"""Name of an entry of an optimizer's state → its shape, from that of the parameter."""

_OPTIMIZERS = (
    *("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta"),
    *("ASGD", "Rprop", "Adafactor"),
)
"""The classes of torch and transformers whose states these are; others name what they like."""


def check_run_state(folder: Path, dtypes: Collection[torch.dtype]) -> None:
    """Check that the files of a checkpoint hold the state of the run that its seal describes.

    Args:
        folder: A checkpoint whose files are those that were sealed.
        dtypes: Those of the model's parameters.

    Raises:
        CheckpointError: Naming the file and what is wrong with it.
    """
    seal = read_record(folder)
    checks: dict[str, Callable[[Path, Seal], None]] = {**_CHECKS}
    checks["optimizer.pt"] = partial(_check_optimizer, dtypes=dtypes)

    for name, check in checks.items():
        for path in sorted(folder.glob(name)):
            with _reading(path):
                check(path, seal)


def _check_optimizer(path: Path, seal: Seal, dtypes: Collection[torch.dtype]) -> None:
    # Mapped, not read: the states of a large model need not be in memory twice.
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    groups, states = content["param_groups"], content["state"]
    shapes: Any = seal["optimizer"]["parameters"]
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(group) for group in shapes]:
        raise ValueError(f"groups of {sizes} parameters")

    expected = seal.get("optimizer_states", len(states))
    if len(states) != expected:
        raise ValueError(f"states of {len(states)} parameters instead of {expected}")

    numbers = [number for group in groups for number in group["params"]]
    flat = [tuple(shape) for group in shapes for shape in group]
    shape_of = dict(zip(numbers, flat, strict=True))
    known = seal["optimizer"]["optimizer"] in _OPTIMIZERS

    for number, state in states.items():
        shape = shape_of[number]
        for name, entry in state.items():
            if known and name in _SHAPES and entry is not None:
                _check_entry(name, entry, shape, dtypes)


def _check_entry(name: str, entry: object, shape: _Shape, dtypes: Collection[torch.dtype]) -> None:
    if not isinstance(entry, Tensor):
        raise ValueError(f"no numbers in `{name}`")

    # torch would convert others, and round. Adafactor computes in float32 whatever the weights are.
    if entry.dtype not in {*dtypes, torch.float32}:
        raise ValueError(f"`{name}` of {entry.dtype}")

    # 8-bit optimizers and those that keep one number for a parameter have shapes of their own.
    expected = _SHAPES[name](shape)
    if entry.dim() and tuple(entry.shape) != expected:
        raise ValueError(f"`{name}` of shape {tuple(entry.shape)} instead of {expected}")


def _check_schedule(path: Path, seal: Seal) -> None:
    content = torch.load(path, map_location="cpu", weights_only=True)
    groups: Any = seal["optimizer"]["parameters"]

    if not isinstance(content, dict) or not content:
        raise ValueError("no state")
    # Every schedule of torch and transformers has it; one of a user's own need not.
    if type(content.get("last_epoch", 0)) is not int:
        raise ValueError(f"`last_epoch` {content['last_epoch']!r}")
    for name in ("base_lrs", "_last_lr"):
        rates = content.get(name, [0.0] * len(groups))
        if len(rates) != len(groups) or not all(math.isfinite(rate) for rate in rates):
            raise ValueError(f"`{name}` {rates}")


def _check_random_numbers(path: Path, _: Seal) -> None:
    # What the state of numpy, an array, is put together by.
    put_together: Any = np.zeros(1).__reduce__()[0]
    with safe_globals([put_together, np.ndarray, np.dtype, type(np.dtype(np.uint32))]):
        content = torch.load(path, weights_only=True)

    # Each library says itself whether it can go on from there; generators of our own are asked.
    random.Random().setstate(content["python"])
    np.random.RandomState().set_state(content["numpy"])
    torch.Generator().set_state(content["cpu"])


def _check_scaler(path: Path, _: Seal) -> None:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content and not 0 < content["scale"] < math.inf:
        raise ValueError(f"a loss scale of {content['scale']}")


def _check_trainer_state(path: Path, seal: Seal) -> None:
    step = json.loads(path.read_text(encoding="utf-8"))["global_step"]
    if step != seal["step"]:
        raise ValueError(f"step {step} instead of {seal['step']}")


def _check_surgery(path: Path, _: Seal) -> None:
    check_surgery_file(path)


_CHECKS: Mapping[str, Callable[[Path, Seal], None]] = {
    "trainer_state.json": _check_trainer_state,
    "scheduler.pt": _check_schedule,
    "scaler.pt": _check_scaler,
    "rng_state*.pth": _check_random_numbers,
    SURGERY: _check_surgery,
}
"""File → its check, beside that of `optimizer.pt`. Sharded optimizers have another file, read by
torch shard by shard.
"""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A context in which a file is read; what does not fit becomes one error."""
    try:
        yield
    except _READING as error:
        found = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            found = f"nothing under {found}"

        raise CheckpointError(
            "A checkpoint must hold the state of the run that it was written by. Found in"
            f" {path.parent} another `{path.name}`: {found}. Resume from an earlier checkpoint, or"
            " start a new run from its weights: `model.load_weights(...)`."
        ) from error

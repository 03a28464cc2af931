"""Settings as text that is the same in every process: equal objects have equal descriptions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.Size)
_CONTAINERS = (Mapping, set, frozenset, list, tuple, range)
_DEPTH = 3  # objects may contain each other
_LONG = 1000
_TOKENS = 64

# Where something was loaded from: machines keep the same files in different places.
_PLACES = frozenset({"name_or_path", "base_model_name_or_path", "runtime_config"})


def described(value: object, depth: int = _DEPTH) -> str:
    """Describe a setting so that two processes can compare it.

    Objects without a description of their own are described by their class and by those of their
    public attributes that hold plain values: the addresses of objects, and random generators, are
    different in every process.

    Args:
        value: A number, a text, a collator, a function, a configuration, …
        depth: How many levels of objects inside each other are looked at.

    Returns:
        The description.

    Example:
        >>> described({"b": 1, "a": [None, "x"]})
        "{'a': [None, 'x'], 'b': 1}"
    """
    if isinstance(value, Enum):
        return described(value.value)
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, torch.device):
        return value.type  # the number of the device is that of the process

    if isinstance(value, type):
        return _name(value)
    if depth == 0:
        return _name(type(value))

    inner = partial(described, depth=depth - 1)
    if isinstance(value, (Tensor, np.ndarray)):
        return _array(value)
    if callable(value):
        function = _function(value, inner)
        if function is not None:
            return function
    return _object(value, inner)


def described_parts(name: str, value: object) -> dict[str, str]:
    """Describe an object setting by setting, so that a message can name the one that differs.

    Args:
        name: The name of the object in messages.
        value: The object.

    Returns:
        The name of the object → its class, and that of each setting → its description.
    """
    settings = _settings(value)
    if isinstance(value, Mapping):
        settings = {str(key): content for key, content in value.items()}
    if settings is None:
        return {f"`{name}`": described(value)}

    parts = {f"`{name}`": _name(type(value))}
    for setting, content in settings.items():
        parts[f"`{name}.{setting}`"] = described(content, _DEPTH - 1)
    return parts


def _function(value: object, inner: Callable[[object], str]) -> str | None:
    """The description of a function; `None` for other objects that can be called."""
    if isinstance(value, partial):
        return f"partial({inner(value.func)}, {inner(value.args)}, {inner(value.keywords)})"
    if isinstance(value, MethodType):
        return f"{inner(value.__self__)}.{value.__name__}"

    if isinstance(value, FunctionType):
        # What it was defined with: one function may be made with other numbers on each process.
        held = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        told = [one for one in held if isinstance(one, _PLAIN) or callable(one)]
        line = value.__code__.co_firstlineno
        return f"{value.__module__}.{value.__qualname__}:{line}{inner(told)}"
    if isinstance(value, BuiltinFunctionType):
        return value.__qualname__
    return None


def _object(value: object, inner: Callable[[object], str]) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        entries = sorted((repr(name), inner(entry)) for name, entry in value.items())
        return "{" + ", ".join(": ".join(entry) for entry in entries) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(inner(entry) for entry in value)) + "}"
    if isinstance(value, (list, tuple, range)):
        if len(value) > _LONG:
            return f"[{len(value)} entries]"
        return "[" + ", ".join(inner(entry) for entry in value) + "]"

    settings = _settings(value) or {}
    listed = ", ".join(f"{name}={inner(setting)}" for name, setting in settings.items())
    return f"{_name(type(value))}({listed})"


def _settings(value: object) -> dict[str, object] | None:
    """The settings of an object by name; `None` for what has a description as a whole."""
    functions = (type, partial, MethodType, FunctionType, BuiltinFunctionType)
    whole = (*_PLAIN, *_CONTAINERS, *functions, Enum, Path, Tensor, np.ndarray, nn.Module)
    if isinstance(value, whole):
        return None
    if isinstance(value, PreTrainedTokenizerBase):
        return _tokenizer(value)

    names: Iterable[str] = getattr(value, "__dict__", {})
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
    return {
        name: getattr(value, name, None)
        for name in names
        if name not in _PLACES and not name.startswith("_")
    }


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What batches depend on; of the vocabulary a few words, as it may have a million."""
    size = len(tokenizer)
    sample: Iterable[int] = range(0, size, max(1, size // _TOKENS))
    return {
        "size": size,
        "words": digest_of(str(tokenizer.convert_ids_to_tokens(list(sample)))),
        "special_ids": sorted(tokenizer.all_special_ids),
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_max_length": tokenizer.model_max_length,
    }


def _array(value: Tensor | np.ndarray) -> str:
    return f"array({list(value.shape)}, {digest_of(str(value.tolist()))})"


def digest_of(content: str | bytes) -> str:
    """A short digest for messages: equal contents have equal ones."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def _is_filled(cell: object) -> bool:
    """Whether a variable of an enclosing function has a value yet."""
    return hasattr(cell, "cell_contents")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

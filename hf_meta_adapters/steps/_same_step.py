"""The processes that take a step together must take the same step, on the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from weakref import WeakSet

import torch

from hf_meta_adapters._typing import AllReduce
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.checksums import checksums

_BYTES = 8
_checked: WeakSet[LanguageAdapterModel] = WeakSet()


def check_same_step(
    model: LanguageAdapterModel, all_reduce: AllReduce | None, given: Mapping[str, object]
) -> None:
    """Check, in the first step of a model, that all processes take the same step.

    One message of a few numbers: sums over processes are all that `all_reduce` offers, and n
    processes have the same number h if and only if n Σ h² = (Σ h)².

    Args:
        model: The model.
        all_reduce: Sums over processes in place; `None` on a single process.
        given: What has to be equal: its name in messages → plain values.

    Raises:
        ConfigurationError: On all processes, if something differs, or sums are not taken.
    """
    if all_reduce is None or model in _checked:
        return

    compared = {**given, **_model(model)}
    digits = [byte for value in compared.values() for byte in _digest(value)]
    message = torch.tensor([1, *digits, *(digit**2 for digit in digits)], device=model.device)
    all_reduce(message)

    count, *sums = message.tolist()
    _check_sum(count)

    several = len(digits)
    different = []
    for number, name in enumerate(compared):
        places = range(number * _BYTES, (number + 1) * _BYTES)
        if any(count * sums[several + place] != sums[place] ** 2 for place in places):
            different.append(name)

    if different:
        raise ConfigurationError(
            "All processes must take the same step on the same model, each with rows of its own."
            f" Found that they differ in {', '.join(different)}. Here: {_told(compared, different)}"
            " Build the same model with the same seed on every process, or let DDP send the"
            " weights of the first one, and pass the same languages in the same order."
        )
    _checked.add(model)


def _model(model: LanguageAdapterModel) -> dict[str, object]:
    shapes = []
    for name, parameter in model.named_parameters():
        shapes.append((name, *parameter.shape, str(parameter.dtype), parameter.requires_grad))
    return {
        "the languages of the model": list(model.languages),
        "the shapes of the parameters": shapes,
        "the values of the parameters": checksums(model),
    }


def _check_sum(count: int) -> None:
    """Check that ones were summed where torch knows of several processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return

    processes = torch.distributed.get_world_size()
    if count == 1 and processes > 1:
        raise ConfigurationError(
            "`all_reduce` must sum a tensor over processes in place. Found that it changed nothing"
            f" on {processes} processes: it returns a new tensor, as `accelerator.reduce` does, or"
            " takes means. Pass `torch.distributed.all_reduce`."
        )


def _digest(value: object) -> bytes:
    return hashlib.blake2b(repr(value).encode(), digest_size=_BYTES).digest()


def _told(compared: Mapping[str, object], different: list[str]) -> str:
    """What this process has, of what can be read."""
    told = [f"{name} {compared[name]!r}" for name in different if not name.startswith("the values")]
    return f"{'; '.join(told)[:300] or 'other numbers'}."

"""A model may be as large as the files that it is loaded from, not as large as they claim."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from hf_meta_adapters.errors import HubError

_TIMES = 8
"""A loaded tensor is registered several times: made, tied, read, and moved."""

_SPARE_TENSORS, _SPARE_NUMBERS = 2**12, 2**26
"""For what files may leave out, such as a new head."""


@dataclass(frozen=True)
class Amount:
    """How many tensors files hold, and how many numbers in all.

    Args:
        tensors: The tensors.
        numbers: The numbers.
    """

    tensors: int = 0
    numbers: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tensors + other.tensors, self.numbers + other.numbers)


def amount_in(paths: Iterable[Path]) -> Amount:
    """Count what safetensors files hold, from their headers.

    Args:
        paths: The files. One that is damaged counts for nothing: whoever reads it will say so.
    """
    total = Amount()

    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError):
            continue

        total += Amount(len(shapes), sum(map(_product, shapes)))

    return total


@contextmanager
def at_most(amount: Amount, place: Path, *, packed: bool = False) -> Iterator[None]:
    """Refuse to make a model that is much larger than its files, as soon as it gets too large.

    Parameters are counted when modules register them: before they are initialised, so that next to
    nothing has been allocated.

    Args:
        amount: What the files hold.
        place: Where they are, for the message.
        packed: Whether a quantization library packs several numbers into one.

    Raises:
        HubError: If modules register many times as many parameters.
    """
    owner = threading.get_ident()
    times = _TIMES * (16 if packed else 1)
    most = Amount(times * amount.tensors + _SPARE_TENSORS, times * amount.numbers + _SPARE_NUMBERS)
    seen = Amount()

    def count(more: Amount) -> None:
        nonlocal seen
        # the hooks hear of every thread
        if threading.get_ident() != owner:
            return

        seen += more
        if seen.tensors > most.tensors or seen.numbers > most.numbers:
            raise HubError(
                "The settings of a saved model must fit its weights. Found settings in"
                f" {place} that ask for more than {seen.tensors:,} tensors with {seen.numbers:,}"
                f" numbers, where its files hold {amount.tensors:,} with {amount.numbers:,}."
                " Correct the settings, or download or save the model again."
            )

    def parameter_hook(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            count(Amount(1, parameter.numel()))

    def module_hook(parent: nn.Module, _: str, module: nn.Module | None) -> None:
        # Adapters, and copies of whole modules, whose parameters are registered nowhere else.
        if isinstance(parent, nn.ModuleDict) and module is not None:
            sizes = [parameter.numel() for parameter in module.parameters()]
            count(Amount(len(sizes), sum(sizes)))

    hooks = [
        register_module_parameter_registration_hook(parameter_hook),
        register_module_module_registration_hook(module_hook),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _product(shape: Iterable[int]) -> int:
    product = 1
    for size in shape:
        product *= size

    return product

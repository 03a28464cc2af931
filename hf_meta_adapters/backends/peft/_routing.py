"""Rows of several languages in one pass of PEFT, in an order that does not change between runs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from types import ModuleType

from torch import nn

from hf_meta_adapters.backends.rows import naming_rows

# the modules in which layers of LoRA run one adapter after the other; some need more libraries
_MODULES = tuple(f"peft.tuners.lora.{name}" for name in ("layer", "bnb", "hqq"))

_LOCK, _PASSES = Lock(), Counter[str]()
"""The passes that run now, by the name of the module, in all threads together."""


@contextmanager
def routing_in_order(layers: Sequence[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """A context in which layers run each row through its adapter, adapters by their first row.

    PEFT goes through a `set` of names, whose order is another one in each process. Dropout would
    draw other masks for each adapter, and no run could be repeated or resumed bitwise.

    Args:
        layers: The layers.
        names: The adapter of each row.
    """
    with ExitStack() as stack:
        for name in _MODULES:
            if name in sys.modules:
                stack.enter_context(_ordered_sets(sys.modules[name]))

        stack.enter_context(naming_rows(layers, names))
        yield


@contextmanager
def _ordered_sets(module: ModuleType) -> Iterator[None]:
    """A context in which `set(...)` keeps the order of its elements in the code of a module.

    Passes in several threads share the names of the module: the first pass changes them, and the
    last one changes them back.
    """
    names = vars(module)
    with _LOCK:
        _PASSES[module.__name__] += 1

        # The keys of a dictionary are a set in the order in which they came.
        names["set"] = dict.fromkeys
    try:
        yield
    finally:
        with _LOCK:
            _PASSES[module.__name__] -= 1
            if not _PASSES[module.__name__]:
                del names["set"]

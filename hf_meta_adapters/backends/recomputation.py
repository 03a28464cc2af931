"""A context for what is computed again in a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any


class Anew(AbstractContextManager[None]):
    """Contexts, one in the other, that are made anew each time: a gradient of a gradient recomputes a part twice.

    Args:
        *make: What makes each context, from the outermost to the innermost.
    """

    def __init__(self, *make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        """Make and enter the contexts."""
        with ExitStack() as stack:
            for make in self._make:
                stack.enter_context(make())
            self._entered.append(stack.pop_all())

    def __exit__(self, *error: object) -> None:
        """Leave the contexts that were entered last."""
        self._entered.pop().close()

"""Contexts for what a backward pass computes again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TypeAlias

from torch import nn

Contexts: TypeAlias = tuple[AbstractContextManager[object], AbstractContextManager[object]]
"""What `context_fn` of torch returns: a context for a forward pass, and for its recomputation."""


class Anew(AbstractContextManager[None]):
    """Nested contexts that are made anew each time this one is entered.

    A generator context can be entered once, but a gradient of a gradient recomputes a checkpointed
    part twice, and the second recomputation may begin within the first.

    Args:
        *make: What makes each context, from the outermost to the innermost.
    """

    def __init__(self, *make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        """Make and enter the contexts."""
        with ExitStack() as stack:
            for make in self._make:
                stack.enter_context(make())

            # all could be entered: leaving them is now up to `__exit__`
            self._entered.append(stack.pop_all())

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the contexts that were entered last."""
        self._entered.pop().close()


def is_checkpointed(model: nn.Module) -> bool:
    """Whether some part of a transformers model recomputes its activations."""
    # transformers marks parts by an attribute that plain modules do not have
    return any(getattr(part, "gradient_checkpointing", False) for part in model.modules())

"""What a pass through any model needs: its device, its language, evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from hf_meta_adapters._typing import Language

__all__ = ["device_of", "evaluation_mode", "language_router", "routed_to"]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter; the CPU for a model without parameters.

    Example:
        >>> device_of(nn.ReLU())
        device(type='cpu')
    """
    first = next(model.parameters(), None)
    if first is None:
        return torch.device("cpu")

    return first.device


def language_router(
    model: nn.Module,
) -> Callable[[Language], AbstractContextManager[object]] | None:
    """Return the method `use_language` of a model; `None` for a model without languages."""
    # `getattr` rather than a Protocol: the wrapper that `torch.compile` puts around a model passes
    # the method on through `__getattr__`, which `isinstance` does not see on Python 3.12 and later.
    use_language = getattr(model, "use_language", None)
    if callable(use_language):
        return use_language

    return None


def routed_to(model: nn.Module, language: Language | None) -> AbstractContextManager[object]:
    """Return the context in which a model uses the weights of a language.

    Args:
        model: Any module; one without the method `use_language` needs no routing.
        language: The language; `None` for the one that is set.

    Returns:
        The context.
    """
    route = language_router(model)
    if language is None or route is None:
        return nullcontext()

    return route(language)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every module back into its own mode afterwards.

    Args:
        model: Any module.

    Yields:
        Nothing.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluation_mode(model):
        ...     [module.training for module in model.modules()]
        [False, False, False]
        >>> [module.training for module in model.modules()]
        [True, True, False]
    """
    modes = [(module, module.training) for module in model.modules()]

    try:
        model.eval()
        yield
    finally:
        # Not `model.train()`: parts that the user froze in evaluation mode must stay there.
        for module, training in modes:
            module.training = training

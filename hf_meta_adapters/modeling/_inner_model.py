"""What a model with languages offers of the model inside."""

from __future__ import annotations

import inspect
from typing import Protocol, runtime_checkable

from torch import nn

_OTHERWISE = {
    "set_adapter": "Use `set_language`, which keeps every language trainable",
    "add_adapter": "Use `add_language`",
    "load_adapter": "Use `load_language`",
    "delete_adapter": "Use `remove_language`",
    "disable_adapter": "Load the saved folder as a plain model with `AutoModel….from_pretrained`",
    "set_active_adapters": "Use `set_language`",
    "train_adapter": "Use `train_only`, or nothing: all languages are trained from the start",
}
"""Methods of PEFT and `adapters` that would do half of what they say → what to do instead."""


@runtime_checkable
class HasBase(Protocol):
    """A wrapper of PEFT."""

    def get_base_model(self) -> nn.Module:
        """The transformers model."""


def inner_attribute(model: nn.Module, name: str) -> object:
    """An attribute of the model inside.

    Raises:
        AttributeError: If it is missing, or a method that would bypass the wrapper.
    """
    if name in _OTHERWISE:
        raise AttributeError(f"A model with languages has no `{name}`. {_OTHERWISE[name]}.")

    # a plain Trainer reads it off the signature otherwise, and that of the wrapper takes anything
    if name == "accepts_loss_kwargs":
        return _takes_anything(model)
    return getattr(model, name)


def _takes_anything(model: nn.Module) -> bool:
    """Whether the transformers model, in whichever wrapper, takes inputs that it does not name."""
    base = model
    if isinstance(model, HasBase):
        base = model.get_base_model()

    kinds = [one.kind for one in inspect.signature(base.forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds

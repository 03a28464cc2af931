"""What a model with languages offers of the model inside."""

from __future__ import annotations

from torch import nn

_OTHERWISE = {
    "set_adapter": "Use `set_language`, which keeps every language trainable",
    "add_adapter": "Use `add_language`",
    "load_adapter": "Use `load_language`",
    "delete_adapter": "Use `from_pretrained(..., languages=[...])` with the languages to keep",
    "disable_adapter": "Load the saved folder as a plain model with `AutoModel….from_pretrained`",
    "set_active_adapters": "Use `set_language`",
    "train_adapter": "Use `train_only`, or nothing: all languages are trained from the start",
}
"""Methods of PEFT and `adapters` that would do half of what they say → what to do instead."""


def inner_attribute(model: nn.Module, name: str) -> object:
    """An attribute of the model inside.

    Raises:
        AttributeError: If it is missing, or a method that would bypass the wrapper.
    """
    if name in _OTHERWISE:
        raise AttributeError(f"A model with languages has no `{name}`. {_OTHERWISE[name]}.")
    return getattr(model, name)

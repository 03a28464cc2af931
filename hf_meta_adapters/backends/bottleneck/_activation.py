"""Which activation a bottleneck adapter has."""

from __future__ import annotations

from torch import nn
from transformers.activations import ACT2FN

from hf_meta_adapters.backends.bottleneck._config import MODEL_ACTIVATION

_SETTINGS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "dense_act_fn",
    "activation",
)
"""Where the configs of transformers name the activation; the first that a config has."""
_DEFAULT = "gelu"


def activation_name(model: nn.Module, name: str) -> str:
    """The name of an activation in `ACT2FN`.

    Args:
        model: The model, whose config, or the config of whose text part, may name one.
        name: The `non_linearity` of a configuration.
    """
    if name != MODEL_ACTIVATION:
        return name

    # a model for text and images names the activation of its text part in a config of its own
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        for setting in _SETTINGS:
            value = getattr(part, setting, None)
            if isinstance(value, str) and value in ACT2FN:
                return value

    return _DEFAULT

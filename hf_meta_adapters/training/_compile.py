"""Compiling the layers of a model in place, for the passes of an outer step."""

from __future__ import annotations

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel


def compile_layers(
    model: LanguageAdapterModel, *, backend: str | None = None, mode: str | None = None
) -> int:
    """Compile every layer of a model in place, once for each language and kind of pass.

    Layers, not the model: which adapter is active is decided outside of them, and so is at which
    positions the head is evaluated. Double backwards run without compilation, which has none.

    Args:
        model: The model.
        backend: Of `torch.compile`; default its own.
        mode: Likewise.

    Returns:
        The number of layers.

    Raises:
        ConfigurationError: If the model has no layers of the kind that transformers can checkpoint.
    """
    layers = [
        part for part in model.base_model.modules() if isinstance(part, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ConfigurationError(
            "`torch_compile` needs a model made of layers as transformers builds them. Found none"
            f" in `{type(model.base_model).__name__}`. Leave `torch_compile` out."
        )
    # each language is another graph, and a second one without gradients of θ
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, 8 * len(model.languages))
    for layer in layers:
        layer.compile(backend=backend or "inductor", mode=mode)
    return len(layers)

"""Compiling the layers of a model in place, for the passes of an outer step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_GRAPHS_PER_LANGUAGE = 8


def compile_layers(
    model: LanguageAdapterModel, *, backend: str | None = None, mode: str | None = None
) -> int:
    """Compile every layer of a model in place, once for each language and kind of pass.

    Layers, not the model: which adapter is active is decided outside of them, and so are the
    positions at which the head is evaluated. Second derivatives are taken without compilation,
    which has none. Run the model inside `room_for_languages`.

    Args:
        model: The model.
        backend: The backend of `torch.compile`; its own default if `None`.
        mode: The mode of `torch.compile`; likewise.

    Returns:
        The number of layers.

    Raises:
        ConfigurationError: If the model has no layers that transformers can checkpoint.
    """
    layers = []
    for module in model.base_model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            layers.append(module)

    if not layers:
        raise ConfigurationError(
            "`torch_compile` needs a model made of layers as transformers builds them. Found none"
            f" in `{type(model.base_model).__name__}`. Leave `torch_compile` out."
        )

    # In place, unlike `torch.compile`: modules stay where they are, and with them the names of
    # parameters, hooks and checkpoints.
    for layer in layers:
        layer.compile(backend=backend or "inductor", mode=mode)
    return len(layers)


@contextmanager
def room_for_languages(model: LanguageAdapterModel) -> Iterator[None]:
    """A context in which torch compiles as many graphs of a layer as the languages need.

    Each language is another graph, and a second one without gradients of θ. With torch's default
    limit, the languages that come last would run without compilation.

    Args:
        model: The model.
    """
    needed = _GRAPHS_PER_LANGUAGE * len(model.languages)
    limit = max(torch._dynamo.config.recompile_limit, needed)

    # The limit is read where a pass needs a new graph, long after `compile_layers`.
    with torch._dynamo.config.patch(recompile_limit=limit):
        yield

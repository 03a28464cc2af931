"""A small batch on which two models with the same inputs can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_meta_adapters.errors import ConfigurationError

_TOKENS = 12
_OF_ADAPTERS = ("trainable_token_indices", "token_indices")


def probe_inputs(model: nn.Module, adapter: object) -> dict[str, Tensor]:
    """Make up one row of inputs.

    One row, because classifiers of decoders need a padding token for more.

    Args:
        model: A transformers model of text, speech features or pictures.
        adapter: The configuration of the adapters, which may concern only some tokens.

    Returns:
        name → tensor, on the device of the model.

    Raises:
        ConfigurationError: If the model has other inputs.
    """
    transformer: Any = model
    name, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if config is None:
        raise _no_probe(model)

    text = _token_ids(transformer, adapter)
    if name == "input_ids":
        inputs = {"input_ids": text}
    elif name == "input_features" and hasattr(config, "max_source_positions"):
        # the encoder halves the number of frames
        inputs = {name: _noise(1, config.num_mel_bins, 2 * config.max_source_positions)}
    elif name == "pixel_values" and hasattr(config, "image_size"):
        inputs = {name: _noise(1, config.num_channels, config.image_size, config.image_size)}
    else:
        raise _no_probe(model)

    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = text

    parameter = next(model.parameters())
    device, kind = parameter.device, getattr(model, "dtype", parameter.dtype)
    return {
        key: value.to(device, kind if value.is_floating_point() else None)
        for key, value in inputs.items()
    }


def _token_ids(model: Any, adapter: object) -> Tensor:
    """Tokens from all over the vocabulary, those of the adapter, and the end of a text."""
    try:
        size = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError):
        return torch.zeros(1, 0, dtype=torch.long)  # a model of pictures has none

    tokens = torch.linspace(0, size - 1, _TOKENS).long().tolist()
    for setting in _OF_ADAPTERS:
        chosen = getattr(adapter, setting, None) or []
        groups = chosen.values() if isinstance(chosen, dict) else [chosen]
        tokens += [token for group in groups for token in list(group)[:_TOKENS]]

    # classifiers of encoder-decoders read the state at the end of the text
    end = getattr(model.config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < size:
        tokens = [token for token in tokens if token != end] + [end]
    return torch.tensor([tokens])


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _no_probe(model: nn.Module) -> ConfigurationError:
    return ConfigurationError(
        "`merge_language` compares the merged model with the present one on a batch. Found no"
        f" inputs that it could make up for `{type(model).__name__}`. Pass inputs of the model as"
        " `probe={...}`."
    )

"""The sizes of a model that learns from little text."""

from __future__ import annotations

import math

__all__ = ["small_sizes"]


def small_sizes(width: int = 64, layers: int = 2) -> dict[str, int | float | bool]:
    """Return the sizes of a ModernBERT that learns from little text.

    Its weights begin with a variance of 0.64 / width. The usual standard deviation of 0.02 is meant
    for large models. With it, a model of this size learns in a few hundred steps how frequent words
    are, and nothing of their neighbours; interference then says nothing either.

    Args:
        width: Hidden size, a multiple of 8.
        layers: Number of layers.

    Returns:
        Arguments of `ModernBertConfig`.
    """
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * width,
        "num_attention_heads": 4,
        "global_attn_every_n_layers": 1,
        "reference_compile": False,
        "initializer_range": round(0.8 / math.sqrt(width), 4),
    }

"""Names of the types that several modules share. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch

Language: TypeAlias = str
"""The key of a language, such as `"en"` or `"zh-Hant"`."""

Batch: TypeAlias = Mapping[str, Any]
"""Keyword arguments of one forward pass, usually tensors of shape (B, ...)."""

Parameters: TypeAlias = Mapping[str, torch.Tensor]
"""Tensors by their name in `named_parameters()`."""

Loss: TypeAlias = Callable[[], torch.Tensor]
"""A function that evaluates a scalar loss at the present values of the parameters."""

MicroBatches: TypeAlias = Loss | Sequence[Loss]
"""One loss, or several whose sum is the loss: the micro-batches of gradient accumulation."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""The examples of one language: a `datasets.Dataset`, or a list of dicts."""


class AutoClass(Protocol):
    """A class of transformers that builds and loads models, such as `AutoModelForMaskedLM`."""

    from_config: Callable[..., Any]
    from_pretrained: Callable[..., Any]

"""Names of types, and the one constant, that several packages share. Imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

import torch

Language: TypeAlias = str
"""The key of a language, such as `"en"` or `"zh-Hant"`."""

RowLanguages: TypeAlias = Language | list[Language] | tuple[Language, ...]
"""The language of a batch, or one for each of its rows."""

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

AllReduce: TypeAlias = Callable[[torch.Tensor], object]
"""Sums a flat tensor over all processes in place, as `torch.distributed.all_reduce` does."""

Autocast: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes the context in which losses are evaluated, such as `accelerator.autocast`."""

IGNORED_LABEL: Final = -100
"""The label of a position without a target: PyTorch's default `ignore_index`."""

Details: TypeAlias = Mapping[str, object]
"""What is recorded of a saved model: JSON values, or results that have a `to_dict()`."""

JsonObject: TypeAlias = dict[str, Any]
"""A parsed JSON object. Anybody may have written it, so its values are checked before use."""

ModelArguments: TypeAlias = Mapping[str, Any]
"""Keyword arguments of `from_pretrained` of transformers, which depend on the model."""


Keywords: TypeAlias = Mapping[str, Any]
"""Keyword arguments of a class that checks them itself, such as training arguments."""


class ModelClass(Protocol):
    """A class of transformers that loads checkpoints: a model's own, or one of `AutoModel…`."""

    from_pretrained: Callable[..., Any]


class AutoClass(ModelClass, Protocol):
    """A class of transformers that picks a model's own class, such as `AutoModelForMaskedLM`."""

    from_config: Callable[..., Any]

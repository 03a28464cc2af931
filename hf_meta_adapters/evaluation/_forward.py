"""Forward passes of an evaluation: routed to a language, in batches of similar length, the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["Feature", "logits_of", "run"]

Feature: TypeAlias = dict[str, Any]
"""One row of model input as lists of length T, and what is needed to score it under names that no model takes."""

Decoded = TypeVar("Decoded")

_PADDING = {"attention_mask": 0, "token_type_ids": 0}


def run(
    model: nn.Module,
    features: Sequence[Feature],
    decode: Callable[[Sequence[Feature], Any], Sequence[Decoded]],
    *,
    language: Language | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> list[Decoded]:
    """Return what `decode` makes of the model's output for each feature, in the order of the features.

    Rows of similar length share a batch, padded on the right. The model runs in evaluation mode,
    without gradients, inside `model.use_language(language)` where it has that method; its modes are
    restored afterwards.

    Args:
        model: A transformers model, or one wrapped around it.
        features: The rows.
        decode: Takes the rows of a batch and the model's output; returns one small result a row.
        language: The language of the rows.
        batch_size: Rows a pass.
        progress: Show a progress bar.

    Returns:
        One result a row.

    Raises:
        ConfigurationError: If `batch_size` is not a positive integer.
    """
    if batch_size < 1:
        raise ConfigurationError(
            f"`batch_size` must be at least 1. Found {batch_size}. Write for example 32."
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    padding = getattr(getattr(model, "config", None), "pad_token_id", None) or 0
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    results: dict[int, Decoded] = {}
    with (
        _evaluating(model, language),
        tqdm(total=len(order), disable=not progress, desc=language, unit="row") as bar,
    ):
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            rows = [features[i] for i in indices]
            output = model(
                **{name: tensor.to(device) for name, tensor in _collate(rows, padding).items()}
            )
            results.update(zip(indices, decode(rows, output), strict=True))
            bar.update(len(indices))
    return [results[i] for i in range(len(features))]


def logits_of(output: Any, name: str, dimensions: int) -> Tensor:
    """Return one output of a model.

    Args:
        output: What the model returned.
        name: `"logits"`, `"start_logits"` or `"end_logits"`.
        dimensions: How many dimensions it must have.

    Returns:
        The logits.

    Raises:
        ConfigurationError: If the model has another head.
    """
    logits = getattr(output, name, None)
    if not isinstance(logits, Tensor) or logits.dim() != dimensions:
        found = "nothing of that name" if logits is None else f"shape {tuple(logits.shape)}"
        raise ConfigurationError(
            f"The task reads `{name}` with {dimensions} dimensions from the model. Found {found} in"
            f" `{type(output).__name__}`. Load the model with the head of the task, for example by"
            " `AutoModelForTokenClassification`."
        )
    return logits


def _collate(rows: Sequence[Mapping[str, Any]], padding: int) -> dict[str, Tensor]:
    """Return the inputs of the rows as tensors of shape (B, T)."""
    length = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.tensor([[*row[name], *[fill] * (length - len(row[name]))] for row in rows])
        for name, fill in {"input_ids": padding, **_PADDING}.items()
        if name in rows[0]
    }


@contextmanager
def _evaluating(model: nn.Module, language: Language | None) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    use_language = getattr(model, "use_language", None)
    routed: AbstractContextManager[Any] = nullcontext()
    if language is not None and callable(use_language):
        routed = use_language(language)
    model.eval()
    try:
        with routed, torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training

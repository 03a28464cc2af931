"""Forward passes of an evaluation: routed to a language, in batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.passes import device_of, evaluation_mode, routed_to
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["Feature", "config_value", "logits_of", "run_model", "text_logits"]

Feature: TypeAlias = dict[str, Any]
"""A row of model inputs as lists of length T, and what scoring needs under names no model takes."""

Decoded = TypeVar("Decoded")

_PADDING = {"attention_mask": 0, "token_type_ids": 0}


def run_model(
    model: nn.Module,
    features: Sequence[Feature],
    decode: Callable[[Sequence[Feature], object], Sequence[Decoded]],
    *,
    language: Language | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> list[Decoded]:
    """Return what `decode` makes of the model's output for each feature, in their order.

    Rows of similar length share a batch, padded on the right. Where PEFT puts a prompt before the
    text, all rows of a batch have one length: it passes embeddings, in which a decoder with a
    classifier cannot tell the last token from padding. The model runs in evaluation mode, without
    gradients, inside `model.use_language(language)` where it has that method; its modes are
    restored afterwards.

    Args:
        model: A transformers model, or a wrapper around one.
        features: The rows.
        decode: Takes the rows of a batch and the model's output; returns one small result per row.
        language: The language of the rows.
        batch_size: Rows per pass.
        progress: Show a progress bar.

    Returns:
        One result per row.

    Raises:
        ConfigurationError: If `batch_size` is not a positive integer.
    """
    if batch_size < 1:
        raise ConfigurationError(
            f"`batch_size` must be at least 1. Found {batch_size}. Use for example 32."
        )

    device = device_of(model)
    pad_token_id = config_value(model, "pad_token_id") or 0  # any token will do under the mask

    # The longest rows come first: if memory is short, the first batch fails, not the last.
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))

    results: dict[int, Decoded] = {}
    with (
        evaluation_mode(model),
        routed_to(model, language),
        torch.no_grad(),
        tqdm(total=len(order), disable=not progress, desc=language, unit="row") as bar,
    ):
        for indices in _batches(order, features, batch_size, padded=not _has_prompt(model)):
            rows = [features[i] for i in indices]
            inputs = _collate(rows, pad_token_id)

            output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
            results.update(zip(indices, decode(rows, output), strict=True))
            bar.update(len(indices))

    return [results[i] for i in range(len(features))]


def logits_of(output: object, name: str, dimensions: int) -> Tensor:
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
    if isinstance(logits, Tensor) and logits.dim() == dimensions:
        return logits

    description = "nothing of that name" if logits is None else f"shape {tuple(logits.shape)}"
    raise ConfigurationError(
        f"The task reads `{name}` with {dimensions} dimensions from the model. Found {description}"
        f" in `{type(output).__name__}`. Load the model with the head of the task, for example by"
        " `AutoModelForTokenClassification`."
    )


def text_logits(output: object, name: str, dimensions: int, rows: Sequence[Feature]) -> Tensor:
    """Return an output that has logits for each place of the text, without those of a prompt.

    A prompt (prompt tuning, P-tuning) comes before the text and has logits as well.

    Args:
        output: What the model returned.
        name: As for `logits_of`.
        dimensions: As for `logits_of`.
        rows: The rows of the batch.

    Returns:
        The logits, of shape (B, T, ...), where T is the length of the longest row.

    Raises:
        ConfigurationError: If the model has another head, or fewer logits than there are tokens.
    """
    logits = logits_of(output, name, dimensions)
    length = max(len(row["input_ids"]) for row in rows)

    before = logits.shape[1] - length
    if before < 0:
        raise ConfigurationError(
            f"The task reads `{name}` at every token of the text. Found {logits.shape[1]} places"
            f" for {length} tokens in `{type(output).__name__}`. Use a model that keeps the length"
            " of the text."
        )
    return logits[:, before:]


def config_value(model: nn.Module, name: str) -> Any:
    """Return an entry of `model.config`, or `None` where there is no config or no such entry."""
    return getattr(getattr(model, "config", None), name, None)


def _has_prompt(model: nn.Module) -> bool:
    """Whether PEFT puts a prompt before the text."""
    config = getattr(model, "active_peft_config", None)
    return bool(getattr(config, "is_prompt_learning", False))


def _batches(
    order: Sequence[int], features: Sequence[Feature], size: int, *, padded: bool
) -> Iterator[list[int]]:
    """Yield the numbers of the rows of each batch.

    Args:
        order: The numbers of all rows, longer ones first.
        features: The rows.
        size: Rows per batch, at most.
        padded: Whether rows of different length may share a batch.

    Yields:
        Numbers of rows.
    """
    batch: list[int] = []
    for index in order:
        is_full = len(batch) == size
        if batch and not padded:
            is_full |= len(features[index]["input_ids"]) != len(features[batch[0]]["input_ids"])

        if is_full:
            yield batch
            batch = []
        batch.append(index)

    if batch:
        yield batch


def _collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    """Return the inputs of the rows as tensors of shape (B, T)."""
    length = max(len(row["input_ids"]) for row in rows)

    inputs = {}
    for name, filler in {"input_ids": pad_token_id, **_PADDING}.items():
        if name in rows[0]:
            padded = [[*row[name], *[filler] * (length - len(row[name]))] for row in rows]
            inputs[name] = torch.tensor(padded)

    return inputs

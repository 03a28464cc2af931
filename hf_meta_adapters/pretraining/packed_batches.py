"""Batches of packed rows, and whether a model keeps the texts of a row apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import default_data_collator

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.anatomy.passes import device_of, evaluation_mode, routed_to
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["check_packing", "collate_packed"]

_LENGTH = 4
_TOLERANCE = 1e-3
"""Of the largest logit. What a model that attends across texts moves is far more."""


def collate_packed(rows: list[dict[str, list[int]]]) -> Batch:
    """Make a batch of packed rows of one length: of tensors, without `attention_mask` and cache.

    A model of transformers tells by `position_ids` which tokens belong together only where it has
    neither of the two.

    Args:
        rows: What `chat_rows(..., pack=True)` returns.

    Returns:
        The batch.

    Example:
        >>> row = {"input_ids": [3, 4, 5], "labels": [-100, 4, -100], "position_ids": [0, 1, 0]}
        >>> collate_packed([row])["position_ids"]
        tensor([[0, 1, 0]])
    """
    return {**default_data_collator(rows), "use_cache": False}


def check_packing(model: nn.Module, language: Language, tokens: Sequence[int]) -> None:
    """Check that the logits of a text do not depend on the text before it in the row.

    Two rows of two short texts each are run, as `collate_packed` makes batches of packed rows. They
    differ in the first text alone.

    Args:
        model: A model with languages, over a decoder.
        language: One of them.
        tokens: Tokens of its vocabulary, at least two different ones.

    Raises:
        ConfigurationError: If the model attends across texts, or takes no `position_ids`.
    """
    second = [tokens[0]] * _LENGTH
    places = [*range(_LENGTH)] * 2
    rows = [
        {"input_ids": [first] * _LENGTH + second, "position_ids": places}
        for first in sorted(set(tokens))[:2]
    ]
    batch, device = collate_packed(rows), device_of(model)

    try:
        with torch.no_grad(), evaluation_mode(model), routed_to(model, language):
            output = model(**{name: _placed(entry, device) for name, entry in batch.items()})
    except TypeError as error:
        raise _refusal(f"it takes other inputs ({error})") from error

    one, other = output.logits[:, _LENGTH:].float()
    difference, size = (one - other).abs().max(), one.abs().max()
    if difference > _TOLERANCE * size:
        found = f"the first text of a row changes the logits of the second by {difference:.2g}"
        raise _refusal(f"{found}, where the largest is {size:.2g}")


def _placed(entry: object, device: torch.device) -> object:
    return entry.to(device) if isinstance(entry, torch.Tensor) else entry


def _refusal(found: str) -> ConfigurationError:
    return ConfigurationError(
        "Several conversations in a row need a model that keeps them apart by `position_ids`."
        f' Found that {found}. Use `pack=False`, or load the base with `attn_implementation="sdpa"`'
        " (flash attention keeps them apart in batches of one row only)."
    )

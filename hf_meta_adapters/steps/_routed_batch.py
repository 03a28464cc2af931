"""Batches of several languages as one batch, whose rows remember their language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

RULE = "`languages_per_pass` over 1 puts the rows of several languages into one forward pass"

_MASKS = ("attention_mask", "decoder_attention_mask", "token_type_ids")


@dataclass(frozen=True)
class RoutedBatch:
    """Batches of several languages as one.

    Args:
        batch: The tensors, rows of one language after those of another.
        languages: The languages, in this order.
        language_of_row: The language of each row.
        number_of_row: Its number among the languages, of shape (rows), on the device.
    """

    batch: Batch
    languages: tuple[Language, ...]
    language_of_row: list[Language]
    number_of_row: Tensor


def routed_batch(model: LanguageAdapterModel, batches: Mapping[Language, Batch]) -> RoutedBatch:
    """Put batches of several languages into one, with shorter rows padded on the right.

    Args:
        model: The model, whose config knows the padding token.
        batches: One batch for each language.

    Returns:
        The batch.

    Raises:
        DataError: If the batches differ in more than their length.
    """
    _check_entries(batches)
    batch = _concatenated(list(batches.values()), _fillers(model))

    languages = tuple(batches)
    number_of_row: list[int] = []
    for number, key in enumerate(languages):
        number_of_row += [number] * len(batches[key]["labels"])

    return RoutedBatch(
        batch=batch,
        languages=languages,
        language_of_row=[languages[number] for number in number_of_row],
        number_of_row=torch.tensor(number_of_row, device=batch["labels"].device),
    )


def _check_entries(batches: Mapping[Language, Batch]) -> None:
    """Refuse batches that do not have the same entries."""
    first = next(iter(batches))
    expected = sorted(batches[first])

    for key, batch in batches.items():
        if "labels" not in batch or sorted(batch) != expected:
            raise DataError(
                f"{RULE}, which must have the same entries, `labels` among them. Found"
                f" {expected} for {first!r} and {sorted(batch)} for {key!r}. Let the collator give"
                " all languages the same entries, or use `languages_per_pass=1`."
            )


def _fillers(model: LanguageAdapterModel) -> dict[str, int]:
    """The values that fill up rows, by the name of the entry."""
    # Not every config has one; padded positions are masked, so that any token will do.
    padding_token = getattr(model.config, "pad_token_id", None) or 0

    return {
        "input_ids": padding_token,
        "decoder_input_ids": padding_token,
        "labels": IGNORED_LABEL,
        **dict.fromkeys(_MASKS, 0),
    }


def _concatenated(batches: Sequence[Batch], fillers: Mapping[str, int]) -> Batch:
    """The rows of all batches, one batch after the other."""
    lengths = {batch["input_ids"].shape[1:] for batch in batches if "input_ids" in batch}
    if len(lengths) > 1:
        # the padding that is added below must not be attended to
        batches = [
            {"attention_mask": torch.ones_like(batch["input_ids"]), **batch} for batch in batches
        ]

    together = {}
    for name, value in batches[0].items():
        values = [batch[name] for batch in batches]

        if not isinstance(value, Tensor) or value.dim() == 0:
            _check_equal(name, values)
            together[name] = value
        elif name in fillers and value.dim() == 2:
            together[name] = _stacked(name, _padded(values, fillers[name]))
        else:
            together[name] = _stacked(name, values)

    return together


def _padded(tensors: Sequence[Tensor], filler: int) -> list[Tensor]:
    """Tensors of shape (rows, positions), filled up on the right to the longest."""
    longest = max(tensor.shape[1] for tensor in tensors)
    return [pad(tensor, (0, longest - tensor.shape[1]), value=filler) for tensor in tensors]


def _stacked(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors, which must have the same shape."""
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        raise DataError(
            f"{RULE}, whose rows must be equally long. Found `{name}` of"
            f" {[tuple(tensor.shape) for tensor in tensors]}. Let the collator pad to one length,"
            " or use `languages_per_pass=1`."
        )

    return torch.cat(list(tensors))


def _check_equal(name: str, values: Sequence[object]) -> None:
    """Refuse different values of an entry that has no rows."""
    first = values[0]

    # by identity first: a comparison of 0-d tensors would make the host wait for their values
    if any(value is not first and value != first for value in values):
        raise DataError(
            f"{RULE}, which must share every entry that has no rows. Found {values} as `{name}`."
            " Give all languages the same value, or use `languages_per_pass=1`."
        )

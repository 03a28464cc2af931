"""Text for encoder-decoders to train on: spans are cut out of it, and asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["SpanCorruptionCollator"]

_IGNORED = -100


@dataclass(frozen=True)
class SpanCorruptionCollator:
    """Cut random spans out of each row of tokens, and make labels of what is missing.

    With `sentinels`, span corruption (Raffel et al. 2020, section 3.1.4), the objective of T5 and
    mT5: the k-th span is replaced by the k-th sentinel, and the labels are each sentinel with its
    span, one more sentinel, and the end. With `mask_token_id`, text infilling (Lewis et al. 2020),
    as for BART and mBART: each span is replaced by one mask, and the labels are the whole row. Of n
    tokens, round(`noise_density` · n) are cut out, at least one, in round(that /
    `mean_span_length`) spans; all ways to divide them have the same probability. Special tokens
    stay.

    Args:
        pad_token_id: What short rows are filled up with, where attention is 0 and labels are -100.
        sentinels: Ids of the sentinels, in order.
        mask_token_id: Id of the mask, in place of sentinels.
        eos_token_id: What labels of spans end with, if anything.
        special_ids: Ids that are never cut out.
        noise_density: Share of the tokens that are cut out.
        mean_span_length: Tokens in a span.

    Raises:
        ConfigurationError: If not one of `sentinels` and `mask_token_id` is given, or a number is
            out of range.

    Example:
        >>> collator = SpanCorruptionCollator(pad_token_id=0, sentinels=(99, 98), eos_token_id=1, special_ids={1})
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <...>
        >>> batch = collator([{"input_ids": [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 1]}])
        >>> batch["input_ids"].tolist()
        [[10, 11, 12, 13, 14, 15, 16, 17, 99, 1]]
        >>> batch["labels"].tolist()
        [[99, 18, 19, 98, 1]]
    """

    pad_token_id: int
    sentinels: Sequence[int] = ()
    mask_token_id: int | None = None
    eos_token_id: int | None = None
    special_ids: frozenset[int] | set[int] = frozenset()
    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        if (len(self.sentinels) > 1) == (self.mask_token_id is not None):
            raise ConfigurationError(
                "Spans are replaced either by sentinels, at least two, or by a mask. Found"
                f" {len(self.sentinels)} sentinels and `mask_token_id={self.mask_token_id}`. Give"
                " one of them."
            )
        if not 0 < self.noise_density < 1 or not self.mean_span_length >= 1:
            raise ConfigurationError(
                "`noise_density` must be in (0, 1) and `mean_span_length` at least 1. Found "
                f"{self.noise_density} and {self.mean_span_length}. Write for example 0.15 and 3."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch of rows with `input_ids`; other columns are left out.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each (rows, length).
        """
        pairs = [self._corrupt([int(token) for token in row["input_ids"]]) for row in rows]
        inputs, labels = zip(*pairs, strict=True)
        lengths = torch.tensor([len(one) for one in inputs])
        return {
            "input_ids": _filled(inputs, self.pad_token_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long(),
            "labels": _filled(labels, _IGNORED),
        }

    def _corrupt(self, row: list[int]) -> tuple[list[int], list[int]]:
        words = [place for place, token in enumerate(row) if token not in self.special_ids]
        spans = [[words[k] for k in span] for span in self._spans(len(words))]
        hidden = {place: number for number, span in enumerate(spans) for place in span}
        kept: list[int] = []
        for place, token in enumerate(row):
            if place not in hidden:
                kept.append(token)
            elif place == spans[hidden[place]][0]:
                kept.append(
                    self.sentinels[hidden[place]]
                    if self.mask_token_id is None
                    else self.mask_token_id
                )
        if self.mask_token_id is not None:
            return kept, row
        labels = [
            token
            for number, span in enumerate(spans)
            for token in (self.sentinels[number], *_at(row, span))
        ]
        end = [] if self.eos_token_id is None else [self.eos_token_id]
        return kept, [*labels, self.sentinels[len(spans)], *end]

    def _spans(self, length: int) -> Iterator[range]:
        """Yield the spans of a row of so many tokens: kept and cut-out segments take turns, the first is kept."""
        cut = min(max(round(self.noise_density * length), 1), length - 1)
        if cut < 1:
            return
        spans = min(max(round(cut / self.mean_span_length), 1), length - cut)
        if self.mask_token_id is None:
            spans = min(spans, len(self.sentinels) - 1)
        place = 0
        for kept, hidden in zip(_segments(length - cut, spans), _segments(cut, spans), strict=True):
            yield range(place + kept, place + kept + hidden)
            place += kept + hidden


def _segments(total: int, count: int) -> list[int]:
    """Divide a number into positive summands at random, all divisions alike."""
    ends = (torch.randperm(total - 1)[: count - 1] + 1).sort().values.tolist()
    return [end - start for start, end in zip([0, *ends], [*ends, total], strict=True)]


def _at(row: Sequence[int], places: Sequence[int]) -> list[int]:
    return [row[place] for place in places]


def _filled(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=filler
    )

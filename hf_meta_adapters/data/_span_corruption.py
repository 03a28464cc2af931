"""Training text for encoder-decoders: spans are cut out, and the labels ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Rows
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["SpanCorruptionCollator"]


@dataclass(frozen=True)
class SpanCorruptionCollator:
    """Cut random spans out of each row of tokens, and make labels of what is missing.

    With `sentinels`, span corruption (Raffel et al. 2020, section 3.1.4), the objective of T5 and
    mT5: the k-th span is replaced by the k-th sentinel, and the labels are each sentinel with its
    span, one more sentinel, and the end. With `mask_token_id`, text infilling (Lewis et al. 2020),
    as for BART and mBART: each span is replaced by one mask, and the labels are the whole row. Of n
    tokens, c = round(`noise_density` · n) are cut out, at least one, in round(c /
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
        ConfigurationError: If both or neither of `sentinels` and `mask_token_id` are given, or a
            number is out of range.

    Example:
        >>> collator = SpanCorruptionCollator(
        ...     pad_token_id=0, sentinels=(99, 98), eos_token_id=1, special_ids={1}
        ... )
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
                "Spans must be replaced either by sentinels, at least two, or by a mask. Found"
                f" {len(self.sentinels)} sentinels and `mask_token_id={self.mask_token_id}`. Pass"
                " one of them."
            )

        if not 0 < self.noise_density < 1 or not self.mean_span_length >= 1:
            raise ConfigurationError(
                "`noise_density` must be in (0, 1) and `mean_span_length` at least 1. Found"
                f" {self.noise_density} and {self.mean_span_length}. Use for example 0.15 and 3."
            )

    def __call__(self, rows: Rows) -> Batch:
        """Make a batch of rows with `input_ids`; other columns are left out.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each (rows, length).
        """
        inputs, labels = [], []
        for row in rows:
            tokens = [int(token) for token in row["input_ids"]]
            spans = self._draw_spans(tokens)
            inputs.append(self._replace(tokens, spans))
            labels.append(self._labels(tokens, spans))

        lengths = torch.tensor([len(tokens) for tokens in inputs])
        return {
            "input_ids": _padded(inputs, self.pad_token_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long(),
            "labels": _padded(labels, IGNORED_LABEL),
        }

    def _draw_spans(self, tokens: Sequence[int]) -> list[list[int]]:
        """Return the places of each span to cut out."""
        # Of n words at most n − 1, so that some text is left to tell what is missing.
        words = [place for place, token in enumerate(tokens) if token not in self.special_ids]
        cut = min(max(round(self.noise_density * len(words)), 1), len(words) - 1)
        if cut < 1:
            return []

        count = min(max(round(cut / self.mean_span_length), 1), len(words) - cut)
        if self.mask_token_id is None:
            count = min(count, len(self.sentinels) - 1)  # the last one ends the labels

        # Kept and hidden segments take turns, and the first is kept: so no two spans touch.
        kept_lengths = _random_segments(len(words) - cut, count)
        hidden_lengths = _random_segments(cut, count)

        spans = []
        start = 0
        for kept, hidden in zip(kept_lengths, hidden_lengths, strict=True):
            start += kept
            spans.append(words[start : start + hidden])
            start += hidden

        return spans

    def _replace(self, tokens: Sequence[int], spans: Sequence[Sequence[int]]) -> list[int]:
        """Return the tokens with a sentinel or a mask in place of each span."""
        replacements: dict[int, int] = {}
        hidden: set[int] = set()
        for number, span in enumerate(spans):
            replacement = self.mask_token_id
            if replacement is None:
                replacement = self.sentinels[number]

            # The first place of a span takes the replacement, the others drop out.
            replacements[span[0]] = replacement
            hidden.update(span)

        inputs = []
        for place, token in enumerate(tokens):
            if place in replacements:
                inputs.append(replacements[place])
            elif place not in hidden:
                inputs.append(token)

        return inputs

    def _labels(self, tokens: list[int], spans: Sequence[Sequence[int]]) -> list[int]:
        if self.mask_token_id is not None:
            return tokens

        labels = []
        # There are more sentinels than spans: the next one marks the end of the last span.
        for sentinel, span in zip(self.sentinels, spans, strict=False):
            labels += [sentinel, *(tokens[place] for place in span)]

        labels.append(self.sentinels[len(spans)])
        if self.eos_token_id is not None:
            labels.append(self.eos_token_id)

        return labels


def _random_segments(total: int, count: int) -> list[int]:
    """Divide a number into positive summands at random, every division with equal probability."""
    # count − 1 distinct cuts among the total − 1 places between units: each set is equally likely.
    ends = (torch.randperm(total - 1)[: count - 1] + 1).sort().values.tolist()

    return [end - start for start, end in zip([0, *ends], [*ends, total], strict=True)]


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Return rows of different lengths as one tensor, filled up on the right."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=filler
    )

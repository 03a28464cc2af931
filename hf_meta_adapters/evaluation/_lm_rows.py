"""Rows for the score of a language model: texts as tokens, cut into windows, with their targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import IGNORED_LABEL
from hf_meta_adapters.evaluation._characters_per_token import (
    characters_by_decoding,
    characters_by_offsets,
)
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._windows import windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RowLayout", "TokenizedText", "tokenize"]


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text as its n tokens, without special ones.

    Attributes:
        text: The text.
        tokens: Their ids, shape (n,).
        characters: How many characters each stands for, shape (n,).
    """

    text: str
    tokens: NDArray[np.int64]
    characters: NDArray[np.float64]

    def part(self, window: range) -> TokenizedText:
        """Return some of the tokens, with their characters."""
        chosen = slice(window.start, window.stop)
        return TokenizedText(self.text, self.tokens[chosen], self.characters[chosen])


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[TokenizedText]:
    """Yield each text with its tokens, and how many characters each stands for."""
    for text in texts:
        encoding = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,  # longer than the model allows is no fault here: windows come later
        )
        tokens = encoding["input_ids"]

        if tokenizer.is_fast:
            characters = characters_by_offsets(len(text), encoding["offset_mapping"])
        else:
            decoded = [str(tokenizer.decode([token])) for token in tokens]
            characters = characters_by_decoding(len(text), decoded)

        yield TokenizedText(text, np.array(tokens, dtype=np.int64), characters)


@dataclass(frozen=True)
class RowLayout:
    """What a row holds around the tokens of a text, and which of its logits predict them.

    Attributes:
        before: Special tokens before the text.
        after: Special tokens after it.
        mask_token_id: What replaces the scored tokens; `None` for a causal model, which sees them.
    """

    before: Sequence[int]
    after: Sequence[int]
    mask_token_id: int | None = None

    def rows(self, text: TokenizedText, scored: NDArray[np.bool_], limit: int) -> Iterator[Feature]:
        """Yield the windows of a text that have something to score.

        Args:
            text: The text.
            scored: Which of its tokens are scored, shape (n,).
            limit: Tokens in a row, special tokens included.

        Yields:
            The rows.
        """
        # Without overlap, so that every token is scored once.
        room = limit - len(self.before) - len(self.after)
        for window, _ in windows([1] * len(text.tokens), room):
            row = self._row(text.part(window), scored[window.start : window.stop])

            # A row without a target would cost a pass and add nothing.
            if any(target != IGNORED_LABEL for target in row["targets"]):
                yield row

    def _row(self, text: TokenizedText, scored: NDArray[np.bool_]) -> Feature:
        shown = text.tokens
        if self.mask_token_id is not None:
            shown = np.where(scored, self.mask_token_id, shown)
        input_ids = [*self.before, *shown.tolist(), *self.after]

        # The logits of a masked model belong to the token in their own place, those of a causal
        # model to the next token.
        first = len(self.before)
        if self.mask_token_id is None:
            first -= 1

        targets = [IGNORED_LABEL] * len(input_ids)
        characters = [0.0] * len(input_ids)

        for index in np.flatnonzero(scored):
            place = first + index
            if place >= 0:  # else nothing comes before the first token, so nothing predicts it
                targets[place] = int(text.tokens[index])
                characters[place] = float(text.characters[index])

        return {
            "input_ids": input_ids,
            "attention_mask": [1] * len(input_ids),
            "targets": targets,
            "characters": characters,
        }

"""A question and its passage as rows: windows of the passage, each behind the whole question."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_meta_adapters.evaluation._forward import Feature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PassageReader", "answer_positions"]

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class PassageReader:
    """Cuts a question and a passage into rows.

    Attributes:
        tokenizer: A fast tokenizer.
        limit: Tokens in a row, special tokens included.
        stride: Tokens that neighbouring windows share, at most half of a window.
        longest_question: Tokens of a question that are read.
    """

    tokenizer: PreTrainedTokenizerBase
    limit: int
    stride: int
    longest_question: int

    def windows(self, question: str, passage: str) -> Iterator[Feature]:
        """Yield rows with `places`: place, start and end (in characters) of each passage token."""
        question, question_tokens = self._shorten(question)
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        room = self.limit - special - question_tokens

        # A stride as long as the room would never advance; half of the room always does.
        encoding = self.tokenizer(
            question,
            passage,
            truncation="only_second",
            max_length=self.limit,
            stride=max(0, min(self.stride, room // 2)),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in _INPUTS if name in encoding]

        for window, offsets in enumerate(encoding["offset_mapping"]):
            places = []
            for place, side in enumerate(encoding.sequence_ids(window)):
                if side == 1:  # the passage; 0 is the question, and None a special token
                    start, end = offsets[place]
                    places.append([place, start, _after_marks(passage, end)])

            # An empty passage has no token, and so no answer.
            if places:
                yield {**{name: encoding[name][window] for name in names}, "places": places}

    def _shorten(self, question: str) -> tuple[str, int]:
        """Return the part of a question that is read, and its number of tokens."""
        encoding = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]

        # Cut here, because the tokenizer may shorten only one side of a pair: the passage.
        longest = min(self.longest_question, self.limit // 2)
        if len(offsets) > longest:
            _, end = offsets[longest - 1]
            return question[:end], longest

        return question, len(offsets)


def answer_positions(
    row: Feature, answer: tuple[int, int], cls_token_id: int | None
) -> dict[str, int]:
    """Return the labels of a row: the places of the first and the last token of an answer.

    Args:
        row: A row with `places`.
        answer: Where the answer begins and ends in the passage, in characters.
        cls_token_id: The classification token, if the tokenizer has one.

    Returns:
        `start_positions` and `end_positions`; without the whole answer in the row, both are the
        place of the classification token, or 0.
    """
    answer_start, answer_end = answer
    places = row["places"]
    inside = [place for place, start, end in places if start < answer_end and end > answer_start]

    # Half an answer would teach a wrong end.
    is_whole = places[0][1] <= answer_start and places[-1][2] >= answer_end
    if inside and is_whole:
        return {"start_positions": inside[0], "end_positions": inside[-1]}

    nowhere = 0
    if cls_token_id in row["input_ids"]:
        nowhere = row["input_ids"].index(cls_token_id)

    return {"start_positions": nowhere, "end_positions": nowhere}


def _after_marks(text: str, end: int) -> int:
    """Return the end of the letter at `end`, with its combining marks.

    A tokenizer that strips accents leaves marks uncovered; in Hindi, they are vowels.
    """
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end

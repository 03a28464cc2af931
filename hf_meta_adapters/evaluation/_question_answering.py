"""Extractive question answering: the best span of a passage, read through overlapping windows."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._forward import Feature, logits_of
from hf_meta_adapters.evaluation._score_checks import constant_class
from hf_meta_adapters.evaluation._task import Task, TaskScore, register_task
from hf_meta_adapters.evaluation._windows import length_limit
from hf_meta_adapters.evaluation.answers import answer_f1, best_match, exact_match
from hf_meta_adapters.evaluation.metrics import AnswerMatch, compute

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["QuestionAnswering", "best_spans"]


def best_spans(
    start: Tensor, end: Tensor, *, longest: int, count: int
) -> list[tuple[float, int, int]]:
    """Return the `count` spans i ≤ j < i + longest with the largest s_i + e_j, the best one first.

    Args:
        start: Logits s of the first token, shape (n,).
        end: Logits e of the last token, shape (n,).
        longest: Tokens at most in a span.
        count: How many spans.

    Returns:
        Score, first and last token of each; fewer than `count` where there are not so many.

    Example:
        >>> best_spans(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), longest=2, count=2)
        [(2.0, 1, 1), (1.0, 0, 0)]
    """
    n = len(start)
    allowed = torch.ones(n, n, dtype=torch.bool, device=start.device).triu().tril(longest - 1)
    scores = (start[:, None] + end[None, :]).masked_fill(~allowed, -torch.inf).flatten()
    values, indices = scores.topk(min(count, int(allowed.sum())))
    return [
        (value, index // n, index % n)
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]


@register_task
class QuestionAnswering(Task):
    """Extractive question answering as in SQuAD v1.1: exact match and F1, averaged over the questions.

    A passage that is too long is read in windows that overlap by `stride` tokens, and the best span
    of all windows is the answer, spans of white space apart. The examples have the columns
    `question`, `context` and `answers` (`text` and `answer_start`, which counts characters); every
    question has an answer.

    Args:
        normalization: `"language"` for the rules of the language (MLQA's), `"squad"` for those of
            SQuAD v1.1 in every language, by which XQuAD and TyDi QA are usually scored. See
            `normalize_answer`.
        stride: Tokens that neighbouring windows share, at most half of a window.
        longest_question: Tokens of a question that are read.
        longest_answer: Tokens of an answer. The usual 30 is short for languages that a multilingual
            vocabulary cuts into many pieces.
        n_best: Spans of each window that compete.
    """

    name = "qa"
    metric = "f1"

    def __init__(
        self,
        normalization: str = "language",
        *,
        stride: int = 128,
        longest_question: int = 64,
        longest_answer: int = 64,
        n_best: int = 20,
    ) -> None:
        if normalization not in ("language", "squad"):
            raise ConfigurationError(
                f'`normalization` must be "language" or "squad". Found {normalization!r}.'
            )
        self.normalization = normalization
        self.stride = stride
        self.longest_question = longest_question
        self.longest_answer = longest_answer
        self.n_best = n_best

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return windows with `start_positions` and `end_positions` of the first answer, and `places` of the passage.

        A window without the whole answer points at its classification token, or at its first one.
        `places` holds the place, start and end (in characters) of each token of the passage.
        """
        if not tokenizer.is_fast:
            raise ConfigurationError(
                "Answers can be found in a passage only by a fast tokenizer. Found"
                f" `{type(tokenizer).__name__}`. Load the tokenizer by"
                " `AutoTokenizer.from_pretrained`, with `tokenizers` installed."
            )
        limit = length_limit(tokenizer, max_length)
        questions, contexts = (
            column(dataset, ["question"], language),
            column(dataset, ["context"], language),
        )
        rows = []
        for example, answers in enumerate(column(dataset, ["answers"], language)):
            if not answers["text"]:
                raise DataError(
                    f"Every question must have an answer. Found none for example {example} of"
                    f" language {language!r}. Leave such questions out."
                )
            first = answers["answer_start"][0]
            answer = first, first + len(answers["text"][0])
            for row in self._windows(tokenizer, questions[example], contexts[example], limit):
                rows.append(
                    {**row, **_positions(row, answer, tokenizer.cls_token_id), "example": example}
                )
        return rows

    def decode(self, rows: Sequence[Feature], output: Any) -> list[list[tuple[float, int, int]]]:
        """Return the best spans of each window: score, first and last character."""
        starts, ends = (
            logits_of(output, name, 2).float() for name in ("start_logits", "end_logits")
        )
        decoded = []
        for row, start, end in zip(rows, starts, ends, strict=True):
            places = torch.tensor([place for place, _, _ in row["places"]], device=start.device)
            best = best_spans(
                start[places], end[places], longest=self.longest_answer, count=self.n_best
            )
            decoded.append(
                [(score, row["places"][i][1], row["places"][j][2]) for score, i, j in best]
            )
        return decoded

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[Any]
    ) -> list[str]:
        """Return the text of the best span of each question; empty if all its spans are white space."""
        spans = defaultdict(list)
        for feature, own in zip(features, decoded, strict=True):
            spans[feature["example"]].extend(own)
        answers = []
        for example, context in enumerate(column(dataset, ["context"])):
            ranked = sorted(spans[example], key=lambda span: -span[0])
            texts = (context[start:end].strip() for _, start, end in ranked)
            answers.append(next(filter(None, texts), ""))
        return answers

    def score(self, dataset: Rows, predictions: Sequence[str], *, language: Language) -> TaskScore:
        """Return exact match and F1, and both for each question."""
        references = [answers["text"] for answers in column(dataset, ["answers"], language)]
        rules = language if self.normalization == "language" else None
        return TaskScore(
            compute(AnswerMatch, predictions=predictions, references=references, language=rules),
            {
                name: np.array(
                    [
                        best_match(measure, p, r, rules)
                        for p, r in zip(predictions, references, strict=True)
                    ]
                )
                for name, measure in (("exact_match", exact_match), ("f1", answer_f1))
            },
            constant_class(predictions, [texts[0] for texts in references]),
        )

    def _windows(
        self, tokenizer: PreTrainedTokenizerBase, question: str, context: str, limit: int
    ) -> Iterator[Feature]:
        longest = min(self.longest_question, limit // 2)
        offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        if len(offsets) > longest:
            question, offsets = question[: offsets[longest - 1][1]], offsets[:longest]
        room = limit - tokenizer.num_special_tokens_to_add(pair=True) - len(offsets)
        encoding = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=limit,
            stride=max(0, min(self.stride, room // 2)),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        inputs = [
            name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoding
        ]
        for window, offset in enumerate(encoding["offset_mapping"]):
            sides = encoding.sequence_ids(window)
            places = [
                [place, offset[place][0], _after_marks(context, offset[place][1])]
                for place, side in enumerate(sides)
                if side == 1
            ]
            if places:
                yield {**{name: encoding[name][window] for name in inputs}, "places": places}


def _after_marks(text: str, end: int) -> int:
    """Return the end of the letter: a tokenizer that strips accents leaves its marks (vowels, in Hindi) uncovered."""
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def _positions(row: Feature, answer: tuple[int, int], cls_token: int | None) -> dict[str, int]:
    """Return the places of the first and the last token of an answer, or twice that of the classification token."""
    begin, finish = answer
    inside = [place for place, start, end in row["places"] if start < finish and end > begin]
    whole = row["places"][0][1] <= begin and row["places"][-1][2] >= finish
    if inside and whole:
        return {"start_positions": inside[0], "end_positions": inside[-1]}
    none = row["input_ids"].index(cls_token) if cls_token in row["input_ids"] else 0
    return {"start_positions": none, "end_positions": none}

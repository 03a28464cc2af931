"""Extractive question answering: the best span of a passage, read through overlapping windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._best_spans import Span, best_spans
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._constant_prediction import constant_class
from hf_meta_adapters.evaluation._forward import Feature, text_logits
from hf_meta_adapters.evaluation._passage_windows import PassageReader, answer_positions
from hf_meta_adapters.evaluation._windows import length_limit
from hf_meta_adapters.evaluation.answers import answer_f1, best_match, exact_match
from hf_meta_adapters.evaluation.metrics import AnswerMatch, compute
from hf_meta_adapters.evaluation.task import Task, TaskScore, register_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["QuestionAnswering"]


@register_task
class QuestionAnswering(Task):
    """Extractive question answering as in SQuAD v1.1: mean exact match and mean F1 of the answers.

    A passage that is too long is read in windows that overlap by `stride` tokens, and the best span
    of all windows is the answer, not counting spans of white space. The examples have the columns
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
        """Return windows with `places` and the positions of the first answer.

        `places` holds the place, start and end (in characters) of each token of the passage. The
        `start_positions` and `end_positions` of a window without the whole answer are its
        classification token, or its first one.
        """
        if not tokenizer.is_fast:
            raise ConfigurationError(
                "Only a fast tokenizer can locate answers in a passage. Found"
                f" `{type(tokenizer).__name__}`. Load the tokenizer by"
                " `AutoTokenizer.from_pretrained`, with `tokenizers` installed."
            )

        limit = length_limit(tokenizer, max_length)
        reader = PassageReader(tokenizer, limit, self.stride, self.longest_question)
        questions = column(dataset, ["question"], language)
        passages = column(dataset, ["context"], language)

        rows = []
        for example, answers in enumerate(column(dataset, ["answers"], language)):
            if not answers["text"]:
                raise DataError(
                    f"Every question must have an answer. Found none for example {example} of"
                    f" language {language!r}. Remove such questions."
                )

            # Training aims at the first answer; a score takes the best match over all of them.
            start = answers["answer_start"][0]
            answer = start, start + len(answers["text"][0])

            for row in reader.windows(questions[example], passages[example]):
                positions = answer_positions(row, answer, tokenizer.cls_token_id)
                rows.append({**row, **positions, "example": example})

        return rows

    def decode(self, rows: Sequence[Feature], output: object) -> list[list[Span]]:
        """Return the best spans of each window: score, first and last character."""
        # On the CPU, since each row is ranked by itself, in many small steps.
        starts = text_logits(output, "start_logits", 2, rows).float().cpu()
        ends = text_logits(output, "end_logits", 2, rows).float().cpu()

        decoded = []
        for row, start, end in zip(rows, starts, ends, strict=True):
            # Only tokens of the passage can answer, so others are left out before the ranking.
            places = torch.tensor([place for place, _, _ in row["places"]], device=start.device)
            spans = best_spans(
                start[places], end[places], longest=self.longest_answer, count=self.n_best
            )

            in_characters = []
            for score, first, last in spans:
                in_characters.append((score, row["places"][first][1], row["places"][last][2]))
            decoded.append(in_characters)

        return decoded

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[list[Span]]
    ) -> list[str]:
        """Return the text of the best span per question; empty if all its spans are white space."""
        # By default no span: an empty passage has no row.
        spans: dict[int, list[Span]] = defaultdict(list)
        for feature, window_spans in zip(features, decoded, strict=True):
            spans[feature["example"]].extend(window_spans)

        answers = []
        for example, passage in enumerate(column(dataset, ["context"])):
            ranked = sorted(spans[example], key=lambda span: -span[0])

            # Lazily, since the best span has text nearly always.
            texts = (passage[start:end].strip() for _, start, end in ranked)
            answers.append(next(filter(None, texts), ""))

        return answers

    def score(self, dataset: Rows, predictions: Sequence[str], *, language: Language) -> TaskScore:
        """Return exact match and F1, and both for each question."""
        references = [answers["text"] for answers in column(dataset, ["answers"], language)]
        rules = language if self.normalization == "language" else None

        matches, f1_scores = [], []
        for prediction, texts in zip(predictions, references, strict=True):
            matches.append(best_match(exact_match, prediction, texts, rules))
            f1_scores.append(best_match(answer_f1, prediction, texts, rules))

        return TaskScore(
            metrics=compute(
                AnswerMatch, predictions=predictions, references=references, language=rules
            ),
            per_example={"exact_match": np.array(matches), "f1": np.array(f1_scores)},
            constant_prediction=constant_class(predictions, [texts[0] for texts in references]),
        )

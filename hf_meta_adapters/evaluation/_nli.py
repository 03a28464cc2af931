"""Natural language inference: does the premise entail the hypothesis?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.evaluation._columns import column, label_column
from hf_meta_adapters.evaluation._constant_prediction import constant_class
from hf_meta_adapters.evaluation._forward import Feature, logits_of
from hf_meta_adapters.evaluation._windows import length_limit
from hf_meta_adapters.evaluation.metrics import ClassF1, compute
from hf_meta_adapters.evaluation.task import Task, TaskScore, register_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NLI"]


@register_task
class NLI(Task):
    """Natural language inference: accuracy and macro F1 over entailment, neutral and contradiction.

    The examples have the columns `premise`, `hypothesis` and `label`. A pair that is too long loses
    tokens at the end of the longer side: one pair has one prediction, so it cannot be cut into
    windows.
    """

    name = "nli"
    metric = "accuracy"
    labels = ("entailment", "neutral", "contradiction")

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return one row for each pair, with its `labels` (an id)."""
        encodings = tokenizer(
            column(dataset, ["premise"], language),
            column(dataset, ["hypothesis"], language),
            truncation="longest_first",
            max_length=length_limit(tokenizer, max_length),
        )

        rows = []
        for example, label in enumerate(self.references(dataset, language)):
            inputs = {name: values[example] for name, values in encodings.items()}

            # A Trainer reads the class under the name `labels`, even though it is a single one.
            rows.append({**inputs, "labels": self.label2id[label], "example": example})

        return rows

    def decode(self, rows: Sequence[Feature], output: object) -> list[str]:
        """Return the class with the largest logit."""
        best = logits_of(output, "logits", 2).argmax(-1).tolist()
        return [self.labels[index] for index in best]

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[str]
    ) -> list[str]:
        """Return the classes: a pair has one row."""
        return [*decoded]

    def score(self, dataset: Rows, predictions: Sequence[str], *, language: Language) -> TaskScore:
        """Return accuracy and macro F1; per example whether it is right."""
        references = self.references(dataset, language)
        correct = np.array(
            [a == b for a, b in zip(predictions, references, strict=True)], dtype=np.float64
        )

        return TaskScore(
            metrics=compute(ClassF1, predictions=predictions, references=references),
            per_example={"correct": correct},
            constant_prediction=constant_class(predictions, references),
        )

    def references(self, dataset: Rows, language: Language) -> list[str]:
        """Return the label of each pair."""
        labels = label_column(dataset, ["label"], language)

        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            raise DataError(
                f"A label must be one of {list(self.labels)}. Found {unknown[0]!r} in language"
                f" {language!r}. Rename the labels, and remove pairs without one."
            )

        return labels

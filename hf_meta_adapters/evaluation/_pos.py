"""Parts of speech, scored by accuracy over words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.evaluation._constant_prediction import constant_class
from hf_meta_adapters.evaluation._token_classification import TokenClassification, flatten
from hf_meta_adapters.evaluation.metrics import TagAccuracy, compute
from hf_meta_adapters.evaluation.task import TaskScore, register_task

__all__ = ["POS"]


@register_task
class POS(TokenClassification):
    """Universal parts of speech (UPOS): accuracy over words.

    Words tagged `_` (the surface forms of contractions in Universal Dependencies) are neither
    trained on nor scored.
    """

    name = "pos"
    metric = "accuracy"
    tag_columns = ("tags", "upos", "pos_tags")
    unseen = "X"
    labels = (
        *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
        *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
    )

    def label(self, tag: str) -> str | None:
        """Return the tag itself, and nothing for `_`."""
        if tag == "_":
            return None

        if tag not in self.labels:
            raise DataError(
                f"A part of speech must be one of UPOS, {', '.join(self.labels)}. Found {tag!r}."
                " Map the tags of the data to these."
            )

        return tag

    def score(
        self, dataset: Rows, predictions: Sequence[list[str]], *, language: Language
    ) -> TaskScore:
        """Return the accuracy; per example the words that are right and those that are scored."""
        predicted: list[list[str]] = []
        expected: list[list[str]] = []
        correct = []
        for prediction, reference in zip(
            predictions, self.references(dataset, language), strict=True
        ):
            # Words without a reference drop out on both sides.
            scored = [
                (label, true_label)
                for label, true_label in zip(prediction, reference, strict=True)
                if true_label is not None
            ]

            predicted.append([label for label, _ in scored])
            expected.append([true_label for _, true_label in scored])
            correct.append(sum(label == true_label for label, true_label in scored))

        return TaskScore(
            metrics=compute(TagAccuracy, predictions=predicted, references=expected),
            per_example={
                "correct": np.array(correct, dtype=np.float64),
                "words": np.array([len(words) for words in expected], dtype=np.float64),
            },
            constant_prediction=constant_class(flatten(predicted), flatten(expected)),
        )

"""Named entities, scored by F1 of spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.evaluation._columns import label_column
from hf_meta_adapters.evaluation._constant_prediction import constant_class
from hf_meta_adapters.evaluation._token_classification import TokenClassification, flatten
from hf_meta_adapters.evaluation.metrics import SpanF1, compute, repair_bio, spans
from hf_meta_adapters.evaluation.task import TaskScore, register_task

__all__ = ["NER"]


@register_task
class NER(TokenClassification):
    """Named entities: F1 of spans (`SpanF1`, strict IOB2, the BIO scheme repaired in scoring only).

    Types that are not counted become `O`, in `B-` and in `I-`, so that languages annotated with
    different types share one set of labels.

    Args:
        types: The types that are counted.
    """

    name = "ner"
    metric = "f1"
    tag_columns = ("tags", "ner_tags")
    unseen = "O"

    def __init__(self, types: Sequence[str] = ("PER", "ORG", "LOC")) -> None:
        self.types = tuple(types)

        labels = ["O"]
        for entity in self.types:
            labels += [f"B-{entity}", f"I-{entity}"]
        self.labels = tuple(labels)

    def label(self, tag: str) -> str:
        """Return the tag itself if its type is counted, else `O`."""
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise DataError(
                f'A tag of an entity must be "O", "B-<type>" or "I-<type>". Found {tag!r}. Convert'
                " the data to the BIO scheme."
            )

        # Without a prefix, "O" has the type "", which is never counted.
        return tag if tag[2:] in self.types else "O"

    def score(
        self, dataset: Rows, predictions: Sequence[list[str]], *, language: Language
    ) -> TaskScore:
        """Return precision, recall and F1; per example the correct, predicted and true spans."""
        references = []
        for labels in self.references(dataset, language):
            references.append([str(label) for label in labels])

        # Before scoring, where data without a single entity of these types would go unnoticed.
        self._check_types(dataset, references, language)

        # Their sums over the examples give the micro average: 2 correct / (predicted + expected).
        correct, predicted, expected = [], [], []
        for prediction, reference in zip(predictions, references, strict=True):
            predicted_spans = spans(repair_bio(prediction))
            true_spans = spans(repair_bio(reference))

            correct.append(len(predicted_spans & true_spans))
            predicted.append(len(predicted_spans))
            expected.append(len(true_spans))

        return TaskScore(
            metrics=compute(SpanF1, predictions=predictions, references=references),
            per_example={
                "correct": np.array(correct, dtype=np.float64),
                "predicted": np.array(predicted, dtype=np.float64),
                "expected": np.array(expected, dtype=np.float64),
            },
            constant_prediction=constant_class(flatten(predictions), flatten(references)),
        )

    def _check_types(
        self, dataset: Rows, references: Sequence[Sequence[str]], language: Language
    ) -> None:
        """Refuse data whose entities are all of other types: its score would be 0 for any model."""
        if set(flatten(references)) != {"O"}:
            return

        tags = set(flatten(label_column(dataset, self.tag_columns, language)))
        other_types = sorted({tag[2:] for tag in tags if tag != "O"})
        if other_types:
            raise DataError(
                f"NER counts the types {list(self.types)}. Found only {other_types} in language"
                f" {language!r}. Use `NER(types={other_types})`, or rename the types of the data."
            )

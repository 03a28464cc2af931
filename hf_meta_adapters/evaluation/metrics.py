"""The metrics of the tasks as `evaluate.Metric`s that need no download, with values from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation._metrics_library import metrics_library
from hf_meta_adapters.evaluation.answers import answer_f1, best_match, exact_match

__all__ = ["AnswerMatch", "ClassF1", "SpanF1", "TagAccuracy", "compute", "repair_bio", "spans"]

_TEXT = datasets.Value("string")
_TEXTS = datasets.Sequence(_TEXT)


def compute(metric: type[evaluate.Metric], **inputs: Any) -> dict[str, float]:
    """Return the values of a metric, and leave no file: `evaluate` caches inputs in a folder."""
    with TemporaryDirectory() as folder:
        values: dict[str, float] = metric(cache_dir=folder, keep_in_memory=True).compute(**inputs)

    return values


def repair_bio(tags: Sequence[str]) -> list[str]:
    """Turn each `I-X` that follows neither `B-X` nor `I-X` into `B-X`, as conlleval reads it.

    Example:
        >>> repair_bio(["I-PER", "I-PER", "I-LOC", "O", "I-LOC"])
        ['B-PER', 'I-PER', 'B-LOC', 'O', 'B-LOC']
    """
    repaired = []
    previous = "O"
    for tag in tags:
        continues = previous[1:] == tag[1:]  # "-X", whether after B or I
        if tag.startswith("I-") and not continues:
            repaired.append(f"B-{tag[2:]}")
        else:
            repaired.append(tag)
        previous = tag

    return repaired


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return type, first and last word of each entity, as seqeval reads them.

    Example:
        >>> spans(["B-PER", "I-PER", "O"])
        {('PER', 0, 1)}
    """
    labeling = metrics_library("seqeval.metrics.sequence_labeling")
    return set(labeling.get_entities([*tags]))


class SpanF1(evaluate.Metric):
    """Precision, recall and F1 of entity spans, which are right if both ends and the type are.

    Strict IOB2, micro average over all sentences, by seqeval. Tags are repaired first
    (`repair_bio`), including the references; `repaired` is the share of the predicted tags that
    needed it. 0 where there is nothing to divide by.

    Example:
        >>> tags = [["B-PER", "I-PER", "O", "B-LOC"]]
        >>> compute(SpanF1, predictions=[["B-PER", "O", "O", "I-LOC"]], references=tags)
        {'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'repaired': 0.25}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("F1 of entity spans", _TEXTS)

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        predicted = [repair_bio(tags) for tags in predictions]
        expected = [repair_bio(tags) for tags in references]

        # v1 is the strict evaluation; by default, seqeval reads tags leniently.
        seqeval = metrics_library("seqeval.metrics.v1")
        precision, recall, f1, _ = seqeval.precision_recall_fscore_support(
            expected,
            predicted,
            average="micro",
            scheme=metrics_library("seqeval.scheme").IOB2,
            zero_division=0,
        )

        return {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "repaired": _share_of_changes(predictions, predicted),
        }


class TagAccuracy(evaluate.Metric):
    """Accuracy of tags over all words of all sentences.

    Example:
        >>> references = [["NOUN", "NOUN"], ["NOUN"]]
        >>> compute(TagAccuracy, predictions=[["NOUN", "VERB"], ["NOUN"]], references=references)
        {'accuracy': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("Accuracy of tags", _TEXTS)

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        # Flat: every word counts alike, so long sentences weigh more than short ones.
        predicted: list[str] = []
        expected: list[str] = []
        for prediction, reference in zip(predictions, references, strict=True):
            predicted += prediction
            expected += reference

        sklearn = metrics_library("sklearn.metrics")
        return {"accuracy": float(sklearn.accuracy_score(expected, predicted))}


class ClassF1(evaluate.Metric):
    """Accuracy, and F1 as the unweighted mean over the classes that occur.

    Example:
        >>> references = ["neutral", "entailment"]
        >>> compute(ClassF1, predictions=["neutral", "neutral"], references=references)
        {'accuracy': 0.5, 'macro_f1': 0.3333333333333333}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("Accuracy and macro F1 of classes", _TEXT)

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        # A class that is never predicted has no precision; its F1 counts as 0.
        sklearn = metrics_library("sklearn.metrics")
        accuracy = sklearn.accuracy_score(references, predictions)
        macro_f1 = sklearn.f1_score(references, predictions, average="macro", zero_division=0)

        return {"accuracy": float(accuracy), "macro_f1": float(macro_f1)}


class AnswerMatch(evaluate.Metric):
    """Mean exact match and mean F1 of answers, each against the best reference of its question.

    `language` picks the rules, see `normalize_answer`; without it the values are those of SQuAD
    v1.1 divided by 100.

    Example:
        >>> compute(AnswerMatch, predictions=["the Nile river"], references=[["Nile"]])
        {'exact_match': 0.0, 'f1': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("Exact match and F1 of answers", _TEXT, _TEXTS)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        language: Language | None = None,
    ) -> dict[str, float]:
        matches, f1_scores = [], []
        for prediction, texts in zip(predictions, references, strict=True):
            matches.append(best_match(exact_match, prediction, texts, language))
            f1_scores.append(best_match(answer_f1, prediction, texts, language))

        return {"exact_match": float(np.mean(matches)), "f1": float(np.mean(f1_scores))}


def _share_of_changes(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]) -> float:
    """Return the share of tags that differ; 0 if there are none."""
    changed: list[bool] = []
    for tags, new_tags in zip(before, after, strict=True):
        changed += [tag != new for tag, new in zip(tags, new_tags, strict=True)]

    return float(np.mean(changed)) if changed else 0.0


def _information(
    description: str, predictions: object, references: object | None = None
) -> evaluate.MetricInfo:
    """Describe a metric; references have the type of predictions unless another is given."""
    if references is None:
        references = predictions

    features = datasets.Features({"predictions": predictions, "references": references})
    return evaluate.MetricInfo(description=description, citation="", features=features)

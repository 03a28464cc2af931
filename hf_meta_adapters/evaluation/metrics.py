"""The metrics of the tasks as `evaluate.Metric`s that need no download. All values are shares from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation.answers import answer_f1, best_match, exact_match

__all__ = ["AnswerMatch", "ClassF1", "SpanF1", "TagAccuracy", "compute", "repair_bio", "spans"]

_TEXT = datasets.Value("string")
_TEXTS = datasets.Sequence(_TEXT)


def compute(metric: type[evaluate.Metric], **inputs: Any) -> dict[str, float]:
    """Return the values of a metric without leaving a file behind (`evaluate` keeps its inputs in a cache folder)."""
    with TemporaryDirectory() as folder:
        values: dict[str, float] = metric(cache_dir=folder, keep_in_memory=True).compute(**inputs)
    return values


def repair_bio(tags: Sequence[str]) -> list[str]:
    """Turn each `I-X` that follows neither `B-X` nor `I-X` into `B-X`, as conlleval reads it.

    Example:
        >>> repair_bio(["I-PER", "I-PER", "I-LOC", "O", "I-LOC"])
        ['B-PER', 'I-PER', 'B-LOC', 'O', 'B-LOC']
    """
    before = ["O", *tags]
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and last[1:] != tag[1:] else tag
        for last, tag in zip(before, tags, strict=False)
    ]


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return type, first and last word of each entity, as seqeval reads them.

    Example:
        >>> spans(["B-PER", "I-PER", "O"])
        {('PER', 0, 1)}
    """
    return set(_library("seqeval.metrics.sequence_labeling").get_entities([*tags]))


class SpanF1(evaluate.Metric):
    """Precision, recall and F1 of entity spans over all sentences: a span is right if both ends and its type are.

    Strict IOB2, micro average, by seqeval. Tags are repaired first (`repair_bio`), references too;
    `repaired` says which share of the predicted tags needed it. 0 where there is nothing to divide
    by.

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
        scheme = _library("seqeval.scheme").IOB2
        predicted, expected = (
            [repair_bio(p) for p in predictions],
            [repair_bio(r) for r in references],
        )
        precision, recall, f1, _ = _library("seqeval.metrics.v1").precision_recall_fscore_support(
            expected, predicted, average="micro", scheme=scheme, zero_division=0
        )
        changed = [
            a != b
            for p, q in zip(predictions, predicted, strict=True)
            for a, b in zip(p, q, strict=True)
        ]
        return {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "repaired": float(np.mean(changed)) if changed else 0.0,
        }


class TagAccuracy(evaluate.Metric):
    """Accuracy of tags over all words of all sentences.

    Example:
        >>> compute(TagAccuracy, predictions=[["NOUN", "VERB"], ["NOUN"]], references=[["NOUN", "NOUN"], ["NOUN"]])
        {'accuracy': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("Accuracy of tags", _TEXTS)

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        flat = [[tag for tags in side for tag in tags] for side in (references, predictions)]
        return {"accuracy": float(_library("sklearn.metrics").accuracy_score(*flat))}


class ClassF1(evaluate.Metric):
    """Accuracy, and F1 as the unweighted mean over the classes that occur.

    Example:
        >>> compute(ClassF1, predictions=["neutral", "neutral"], references=["neutral", "entailment"])
        {'accuracy': 0.5, 'macro_f1': 0.3333333333333333}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _information("Accuracy and macro F1 of classes", _TEXT)

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        sklearn = _library("sklearn.metrics")
        return {
            "accuracy": float(sklearn.accuracy_score(references, predictions)),
            "macro_f1": float(
                sklearn.f1_score(references, predictions, average="macro", zero_division=0)
            ),
        }


class AnswerMatch(evaluate.Metric):
    """Mean exact match and mean F1 of answers, each against the best of the references of its question.

    `language` picks the rules, see `normalize_answer`; without it the values are those of SQuAD
    v1.1 over 100.

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
        pairs = list(zip(predictions, references, strict=True))
        return {
            "exact_match": float(
                np.mean([best_match(exact_match, p, r, language) for p, r in pairs])
            ),
            "f1": float(np.mean([best_match(answer_f1, p, r, language) for p, r in pairs])),
        }


def _information(description: str, predictions: Any, references: Any = None) -> evaluate.MetricInfo:
    features = datasets.Features(
        {"predictions": predictions, "references": references or predictions}
    )
    return evaluate.MetricInfo(description=description, citation="", features=features)


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"This metric needs {name.split('.')[0]}. Found no such package. Install it with "
            "`pip install hf-meta-adapters[metrics]`."
        ) from error

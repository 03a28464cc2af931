"""The baseline that a model must beat: the most frequent label of the training data, everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._language_scores import LanguageScores
from hf_meta_adapters.evaluation._nli import NLI
from hf_meta_adapters.evaluation._token_classification import TokenClassification
from hf_meta_adapters.evaluation.task import Task

__all__ = ["majority_baseline"]


def majority_baseline(task: Task, train: Rows, datasets: Mapping[Language, Rows]) -> LanguageScores:
    """Compute the scores of predicting argmax_y n_y everywhere, n_y counted in `train`.

    This is the most frequent label of the training data, and the least that a model must beat.

    Args:
        task: A tagging task, or NLI.
        train: The training data, in any language.
        datasets: Language → the examples to score.

    Returns:
        The scores.

    Raises:
        ConfigurationError: If the task has no labels to count, such as question answering.

    Example:
        >>> from hf_meta_adapters.evaluation import get_task
        >>> tags = ["DET", "NOUN", "VERB", "NOUN"]
        >>> train = [{"tokens": ["a", "cat", "saw", "dogs"], "tags": tags}]
        >>> test = {"sw": [{"tokens": ["mbwa", "wa"], "tags": ["NOUN", "ADP"]}]}
        >>> majority_baseline(get_task("pos"), train, test)["sw"]
        {'accuracy': 0.5}
    """
    label = _most_frequent_label(task, train)

    scores = {}
    for language, rows in datasets.items():
        predictions: list[str] | list[list[str]]
        if isinstance(task, TokenClassification):
            predictions = [[label] * len(words) for words in column(rows, ["tokens"], language)]
        else:
            predictions = [label] * len(rows)

        scores[language] = task.score(rows, predictions, language=language).metrics

    return LanguageScores(
        task=task.name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        scores=scores,
        examples={language: len(rows) for language, rows in datasets.items()},
    )


def _most_frequent_label(task: Task, train: Rows) -> str:
    # "train" stands for the language, which only error messages name.
    counts: Counter[str] = Counter()
    if isinstance(task, TokenClassification):
        for sentence in task.references(train, "train"):
            counts.update(label for label in sentence if label is not None)
    elif isinstance(task, NLI):
        counts.update(task.references(train, "train"))
    else:
        raise ConfigurationError(
            f"A majority baseline needs a task with labels: tagging or NLI. Found {task.name!r}."
            " Compare with an untrained head instead."
        )

    # Among equals, `Counter` puts the label first that was counted first.
    return counts.most_common(1)[0][0]

"""What a model must beat: the most frequent label of the training data, everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._nli import NLI
from hf_meta_adapters.evaluation._scores import LanguageScores
from hf_meta_adapters.evaluation._task import Task
from hf_meta_adapters.evaluation._token_classification import TokenClassification

__all__ = ["majority_baseline"]


def majority_baseline(task: Task, train: Rows, datasets: Mapping[Language, Rows]) -> LanguageScores:
    """Compute the scores of predicting the most frequent label of `train`, argmax_y n_y, for everything.

    Args:
        task: A tagging task, or NLI.
        train: The training data, in whatever language.
        datasets: Language → what is scored.

    Returns:
        The scores.

    Raises:
        ConfigurationError: If the task has no labels to count, such as question answering.

    Example:
        >>> from hf_meta_adapters.evaluation import get_task
        >>> train = [{"tokens": ["a", "cat", "saw", "dogs"], "tags": ["DET", "NOUN", "VERB", "NOUN"]}]
        >>> test = {"sw": [{"tokens": ["mbwa", "wa"], "tags": ["NOUN", "ADP"]}]}
        >>> majority_baseline(get_task("pos"), train, test)["sw"]
        {'accuracy': 0.5}
    """
    label = _most_frequent(task, train)
    scores, examples = {}, {}
    for language, rows in datasets.items():
        words = (
            column(rows, ["tokens"], language) if isinstance(task, TokenClassification) else None
        )
        predictions = (
            [label] * len(rows) if words is None else [[label] * len(own) for own in words]
        )
        scores[language] = task.score(rows, predictions, language=language).metrics
        examples[language] = len(rows)
    return LanguageScores(task.name, task.metric, task.higher_is_better, scores, examples)


def _most_frequent(task: Task, rows: Rows) -> str:
    if isinstance(task, TokenClassification):
        labels = Counter(
            label for own in task.references(rows, "train") for label in own if label is not None
        )
    elif isinstance(task, NLI):
        labels = Counter(task.references(rows, "train"))
    else:
        raise ConfigurationError(
            f"A majority baseline needs a task with labels: tagging or NLI. Found {task.name!r}."
            " Compare with an untrained head."
        )
    return labels.most_common(1)[0][0]

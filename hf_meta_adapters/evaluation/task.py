"""What a task is: the four steps from data to scores, and the registry of tasks by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._forward import Feature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput


@dataclass(frozen=True, eq=False)
class TaskScore:
    """The scores of one language.

    Attributes:
        metrics: Metric → value.
        per_example: Name → what each example adds to the metrics, shape (n,): the material of a
            bootstrap.
        constant_prediction: The only class that was ever predicted although the references hold
            several, else `None`.
    """

    metrics: Mapping[str, float]
    per_example: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    constant_prediction: Hashable | None = None


Kept: TypeAlias = Any
"""What a task keeps of the output for one row, such as the class of each token."""

Prediction: TypeAlias = Any
"""What a task predicts for one example, such as the tags of its words."""


class Task(ABC):
    """How data becomes features, model output becomes predictions, and predictions are scored.

    To add a task, derive from this class. Pass an instance to `evaluate_languages`, or register the
    class under a name with `register_task`.

    Attributes:
        name: The name of the task.
        metric: The metric that stands for the task in tables.
        higher_is_better: The direction of that metric.
        labels: The classes of the model's head in the order of their ids; empty for a head without
            classes.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    labels: Sequence[str] = ()

    @property
    def id2label(self) -> dict[int, str]:
        """The classes of the head, as in `from_pretrained(..., id2label=task.id2label)`."""
        return dict(enumerate(self.labels))

    @property
    def label2id(self) -> dict[str, int]:
        """The inverse of `id2label`."""
        return {label: index for index, label in enumerate(self.labels)}

    @abstractmethod
    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return the rows that the model is run on, with labels, so that a Trainer can use them.

        Args:
            dataset: The examples.
            tokenizer: The tokenizer of the model.
            language: The language of the examples.
            max_length: Tokens in a row; by default what the tokenizer allows, at most 512.

        Returns:
            One or more rows for each example; `example` of a row is the number of its example.
        """

    @abstractmethod
    def decode(self, rows: Sequence[Feature], output: ModelOutput) -> Sequence[Kept]:
        """Return what to keep of the model's output for each row of a batch: not whole logits."""

    @abstractmethod
    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[Kept]
    ) -> list[Prediction]:
        """Return one prediction for each example, from all its rows."""

    @abstractmethod
    def score(
        self, dataset: Rows, predictions: Sequence[Prediction], *, language: Language
    ) -> TaskScore:
        """Return the scores of the predictions, one for each example of `dataset`."""


_TASKS: dict[str, Callable[[], Task]] = {}

TaskClass = TypeVar("TaskClass", bound=type[Task])


def register_task(task: TaskClass) -> TaskClass:
    """Register a task class under its `name`, as a decorator.

    `get_task` calls the class without arguments.

    Args:
        task: The class.

    Returns:
        The same class.

    Raises:
        ConfigurationError: If another class has the name.

    Example:
        >>> from hf_meta_adapters.evaluation import POS
        >>> register_task(POS) is POS  # the same class may come again
        True
    """
    # Again, as when a notebook runs a cell twice that imports it.
    if _TASKS.setdefault(task.name, task) is not task:
        raise ConfigurationError(
            f"A task must have a unique name. Found {task.name!r}, which is taken. Set another"
            f" `name` in `{task.__name__}`."
        )
    return task


def get_task(name: str) -> Task:
    """Return a task by name, with its default settings.

    Args:
        name: "ner", "pos", "qa", "nli", "masked_lm", "causal_lm", or the name of a class passed to
            `register_task`.

    Returns:
        A new instance.

    Raises:
        ConfigurationError: If there is no such task.

    Example:
        >>> get_task("nli").id2label
        {0: 'entailment', 1: 'neutral', 2: 'contradiction'}
    """
    if name not in _TASKS:
        raise ConfigurationError(
            f"`task` must be a `Task` or one of {sorted(_TASKS)}. Found {name!r}. To add a task,"
            " derive a class from `Task` and decorate it with `@register_task`."
        )
    return _TASKS[name]()

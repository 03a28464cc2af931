"""What cells of one process share: the pretrained weights, and labelled examples as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from transformers import AutoTokenizer

from hf_meta_adapters._typing import AutoClass, Language, Rows
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import Task, get_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TokenizedOnce", "kept_examples", "kept_task", "kept_tokenizer", "new_head"]

Example: TypeAlias = Mapping[str, Any]
Feature: TypeAlias = dict[str, Any]


@cache
def kept_examples(folder: str, split: str, language: Language) -> list[Example]:
    """Return the labelled examples of a language, which are read once in a process.

    Args:
        folder: The folder of the task.
        split: The split.
        language: The language.

    Returns:
        The examples, the same objects every time.
    """
    return list(load_local_datasets(folder, split, languages=[language])[language])


@cache
def kept_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a pretrained model, which is read once in a process.

    Args:
        path: The folder or the name of the model.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    return tokenizer


def new_head(auto_class: AutoClass, path: str, task: Task) -> PreTrainedModel:
    """Return a pretrained model with a new head; its weights are read once in a process.

    Args:
        auto_class: The class of models with such a head.
        path: The folder or the name of the pretrained model.
        task: The task, whose classes the head has.

    Returns:
        A model of its own every time, with the head that the random state gives.
    """
    read, weights = _pretrained(auto_class, path, task.name)  # type: ignore[arg-type]  # a class
    copies = {name: value.clone() for name, value in weights.items()}
    model: PreTrainedModel = type(read).from_pretrained(None, config=read.config, state_dict=copies)
    return model


@cache
def _pretrained(
    auto_class: AutoClass, path: str, task: str
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A model, for its class and config, and those of its weights that were read."""
    classes: dict[str, Any] = {}
    labels = get_task(task)
    if labels.labels:
        classes = {"id2label": labels.id2label, "label2id": labels.label2id}

    # The head of this one is thrown away: only the first cell of a process would draw it.
    with torch.random.fork_rng(devices=[]):
        model, found = auto_class.from_pretrained(path, output_loading_info=True, **classes)
    missing = set(found["missing_keys"])
    return model, {name: value for name, value in model.state_dict().items() if name not in missing}


class TokenizedOnce(Task):
    """A task, mixed into its class, whose examples are tokenized when they are first wanted.

    Examples are told apart by their identity, and must not change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[object, ...], tuple[Example, list[Feature]]] = {}

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return the features of the task, those of earlier calls from memory."""
        examples: list[Example] = list(dataset)
        places = [(id(example), id(tokenizer), language, max_length) for example in examples]

        new = {
            place: example
            for place, example in zip(places, examples, strict=True)
            if place not in self._kept
        }
        if new:
            found = super().features(  # type: ignore[safe-super]
                list(new.values()), tokenizer, language=language, max_length=max_length
            )
            # With the example itself: another one may not get its identity while it is kept.
            kept: list[tuple[Example, list[Feature]]] = [(example, []) for example in new.values()]
            for row in found:
                kept[row["example"]][1].append(row)
            self._kept.update(zip(new, kept, strict=True))

        features = []
        for number, place in enumerate(places):
            features += [{**row, "example": number} for row in self._kept[place][1]]
        return features


@cache
def kept_task(name: str) -> Task:
    """Return a task that tokenizes each example once in a process.

    Args:
        name: The name of the task.
    """
    task = type(get_task(name))
    kept: type[Task] = type(f"{task.__name__}TokenizedOnce", (TokenizedOnce, task), {})
    return kept()

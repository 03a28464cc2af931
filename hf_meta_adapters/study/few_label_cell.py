"""One cell of the study of few labels: train one arm, and score it on every language."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import torch
import transformers

from hf_meta_adapters._typing import AutoClass, Language, Rows
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.evaluation import ConstantPredictionWarning, MiswiringWarning, Task
from hf_meta_adapters.finetuning import FinetuningSettings
from hf_meta_adapters.finetuning.protocols import PROTOCOLS
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study.kept_inputs import (
    kept_examples,
    kept_task,
    kept_tokenizer,
    new_head,
)

__all__ = ["FewLabelCell", "compute_few_label_cell"]

Labelled: TypeAlias = Mapping[Language, Rows]

_CLASSES: dict[str, AutoClass] = {
    "pos": transformers.AutoModelForTokenClassification,
    "ner": transformers.AutoModelForTokenClassification,
    "nli": transformers.AutoModelForSequenceClassification,
    "qa": transformers.AutoModelForQuestionAnswering,
}

_RECORDED_WARNINGS = (ConstantPredictionWarning, MiswiringWarning)

_OF_FEW = ("few-shot", "joint-few-shot", "meta-few-shot", "projected-few-shot")
_OF_META = ("meta-few-shot", "projected-few-shot")


class FewLabelCell(TypedDict):
    """Everything that determines the scores of a cell."""

    # What the same settings may mean something else under.
    version: int
    libraries: dict[str, str]
    digest: str

    # The data: labels of the source, labels of each target, and where scores come from.
    task: str
    source: Language
    source_rows: int
    shots: int
    languages: list[Language]
    split: str
    scored_rows: int

    # The model and its training, see `few_label_options`.
    arm: str
    options: dict[str, Any]
    trained: str
    seed: int
    steps: int
    batch_size: int
    max_length: int


def compute_few_label_cell(
    cell: FewLabelCell, *, model: str | Path, data: str | Path
) -> dict[str, object]:
    """Train an arm on the labels of the source and a few of each target, and score it.

    Args:
        cell: The settings.
        model: The folder or the name of the encoder.
        data: The folder with `<task>/<language>/<split>.jsonl(.gz)`.

    Returns:
        `scores` (language → the metric of the task on `split`), `versions`, and `warnings` of
        scores that should not be believed.

    Raises:
        ConfigurationError: If the options of the arm cannot work.
        DataError: If data is missing or malformed.
    """
    # Cells run side by side.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    # Every stage looks for garbage. What the cells of a process share is none, and is large.
    gc.collect()
    gc.freeze()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = _scores(cell, str(model), Path(data) / cell["task"])

    doubts = {str(one.message) for one in caught if one.category in _RECORDED_WARNINGS}
    return {"scores": scores, "versions": library_versions(), "warnings": sorted(doubts)}


def _scores(cell: FewLabelCell, model: str, folder: Path) -> dict[Language, float]:
    task, options = kept_task(cell["task"]), cell["options"]
    tokenizer = kept_tokenizer(model)
    make_model = partial(_model, cell, model, task)

    protocol = options["protocol"]
    keywords: dict[str, Any] = {}
    if protocol in _OF_FEW:
        keywords["shots"] = cell["shots"]
    if protocol in _OF_META:
        keywords["target_role"] = options["target_role"]

    scores = PROTOCOLS[protocol](
        make_model,
        task,
        _train(cell, folder),
        _scored(cell, folder),
        tokenizer,
        _settings(cell),
        source_language=cell["source"],
        **keywords,
    )
    return {language: round(value, 6) for language, value in scores.values().items()}


def _train(cell: FewLabelCell, folder: Path) -> Labelled:
    """All labelled examples of the targets, and as many of the source as the seed draws."""
    train = {key: kept_examples(str(folder), "train", key) for key in cell["languages"]}
    source, count = cell["source"], cell["source_rows"]

    numbers = list(range(len(train[source])))
    random.Random(f"{cell['seed']}-{source}").shuffle(numbers)
    return {**train, source: [train[source][number] for number in numbers[:count]]}


def _scored(cell: FewLabelCell, folder: Path) -> Labelled:
    """Examples from all over a split, the same for every seed."""
    scored = {}
    for language in cell["languages"]:
        rows = kept_examples(str(folder), cell["split"], language)
        scored[language] = [rows[number] for number in _spread(len(rows), cell["scored_rows"])]
    return scored


def _spread(size: int, count: int) -> Sequence[int]:
    return range(0, size, max(1, size // count))[:count]


def _settings(cell: FewLabelCell) -> FinetuningSettings:
    options = cell["options"]
    rate = options["learning_rate"]
    return FinetuningSettings(
        learning_rate=rate,
        max_steps=cell["steps"],
        batch_size=cell["batch_size"],
        max_length=cell["max_length"],
        seed=cell["seed"],
        training={"adapter_learning_rate": rate * options["adapter_rate"], **options["training"]},
    )


def _model(cell: FewLabelCell, path: str, task: Task) -> LanguageAdapterModel:
    # The seed comes before the head, so that every arm starts from the same one.
    transformers.set_seed(cell["seed"])
    base = new_head(_CLASSES[cell["task"]], path, task)

    adapter = None
    if cell["options"]["own"]:
        adapter = BottleneckConfig()
    return get_language_model(base, adapter, cell["languages"], shared=cell["trained"])

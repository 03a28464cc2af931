"""One cell of a study: pretrain by one method, score on text, fine-tune and score on tasks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import torch
import transformers

from hf_meta_adapters._typing import Language
from hf_meta_adapters.bundled.folders import texts_folder
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import (
    ConstantPredictionWarning,
    MiswiringWarning,
    Task,
    evaluate_languages,
    get_task,
    majority_baseline,
)
from hf_meta_adapters.finetuning import (
    FinetuningSettings,
    load_for_task,
    within_language,
    zero_shot,
)
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study._cell_settings import CellSettings
from hf_meta_adapters.study.methods import Pretrained, pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["compute_cell", "read_texts"]

Scores: TypeAlias = dict[str, dict[Language, float]]
"""Measure → language → score."""

RECORDED_WARNINGS = (ConstantPredictionWarning, MiswiringWarning)


class PretrainingTime(TypedDict):
    """How long pretraining took."""

    seconds: float
    cpu_seconds: float


def read_texts(
    data: str | Path, split: str, languages: Sequence[Language], limit: int | None = None
) -> dict[Language, list[str]]:
    """Read the lines of `<data>/text/<language>/<split>.txt(.gz)`, or of the same without `text/`.

    Args:
        data: The folder, or `"verses"`.
        split: "train", "valid" or "test".
        languages: The languages.
        limit: The largest number of lines of a language.

    Returns:
        Language → lines.

    Raises:
        DataError: If a file is missing or empty.
    """
    folder = texts_folder(data)
    if (folder / "text").is_dir():
        folder = folder / "text"

    datasets = load_local_datasets(folder, split, languages=languages, limit=limit)
    return {language: list(rows["text"]) for language, rows in datasets.items()}


def compute_cell(
    cell: CellSettings, *, data: str | Path, tokenizer: str | Path
) -> dict[str, object]:
    """Compute the scores of a method on some languages with a seed, and what they took.

    Args:
        cell: `method`, `languages`, `seed`, `steps`, `model_type`, `sizes`, `mlm_probability`,
            `bottleneck_size` and `training` for `pretrain`; `split`, `text_limit` and `test_limit`
            of the text; `tasks` ("pos", "ner"), `labelled_limit`, `pivot`, `train`,
            `zero_shot_train` and `finetuning` (of `FinetuningSettings`).
        data: The folder of texts, and of labelled data in
            `<task>/<language>/{train,test}.jsonl(.gz)`.
        tokenizer: The folder of the tokenizer.

    Returns:
        `scores` (measure → language → score: `mlm` in bits per character, `<task>_within`,
        `<task>_zero_shot`), `majority` (the same of the most frequent label), `seconds` and
        `cpu_seconds` of pretraining, `bytes` of the parameters, `examples`, `meta_examples`,
        `meter`, `versions`, and `warnings` of scores that should not be believed.

    Raises:
        DataError: If data is missing or malformed.
    """
    # Models this small lose more to threads than they gain, and cells run side by side.
    torch.set_num_threads(1)

    # Otherwise transformers announces every new head, hundreds of times in a study.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = _compute(cell, Path(data), Path(tokenizer))

    doubts = {str(w.message) for w in caught if w.category in RECORDED_WARNINGS}
    return {**result, "warnings": sorted(doubts)}


def _compute(cell: CellSettings, data: Path, tokenizer_folder: Path) -> dict[str, object]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokenizer_folder))

    texts = read_texts(data, "train", cell["languages"], cell["text_limit"])
    pretrained, took = _pretrain(cell, texts, tokenizer)

    test_texts = read_texts(data, cell["split"], cell["languages"], cell["test_limit"])
    test = {language: _rows(lines) for language, lines in test_texts.items()}
    text_scores = evaluate_languages(
        pretrained.model, "masked_lm", test, processing_class=tokenizer
    )

    scores: Scores = {"mlm": text_scores.values()}
    majority: Scores = {}
    if cell["tasks"]:
        # Every model of every task and protocol is loaded from here, with a new head.
        with TemporaryDirectory() as folder:
            pretrained.model.save_pretrained(folder)
            for task_name in cell["tasks"]:
                task_scores, task_majority = _task_scores(task_name, folder, cell, data, tokenizer)
                scores |= task_scores
                majority |= task_majority

    return {
        "scores": scores,
        "majority": majority,
        **took,
        "bytes": pretrained.size_in_bytes,
        "examples": pretrained.examples,
        "meta_examples": pretrained.meta_examples,
        "meter": pretrained.meter,
        "versions": library_versions(),
    }


def _rows(lines: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": line} for line in lines]


def _pretrain(
    cell: CellSettings,
    texts: Mapping[Language, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Pretrained, PretrainingTime]:
    began, cpu_began = time.perf_counter(), time.process_time()
    pretrained = pretrain(
        cell["method"],
        texts,
        tokenizer,
        model_type=cell["model_type"],
        sizes=cell["sizes"],
        mlm_probability=cell["mlm_probability"],
        bottleneck_size=cell["bottleneck_size"],
        steps=cell["steps"],
        seed=cell["seed"],
        **cell["training"],
    )

    took: PretrainingTime = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu_began, 2),
    }
    return pretrained, took


def _task_scores(
    task_name: str,
    model_folder: str,
    cell: CellSettings,
    data: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Scores, Scores]:
    """Return the scores of a task by every protocol, and those of the most frequent label."""
    task, labelled = get_task(task_name), data / task_name

    # Labelled data need not have every language: those without are not scored.
    languages = [key for key in cell["languages"] if (labelled / key).is_dir()]
    if not languages:
        return {}, {}

    train = load_local_datasets(
        labelled, "train", languages=languages, limit=cell["labelled_limit"]
    )
    test = load_local_datasets(labelled, "test", languages=languages, limit=cell["test_limit"])
    settings = FinetuningSettings(seed=cell["seed"], **cell["finetuning"])

    within = within_language(
        partial(_model_with_head, model_folder, task, cell["train"], cell["seed"]),
        task,
        train,
        test,
        tokenizer,
        settings,
    )

    # The score to beat: the most frequent label of the language that the model was trained on.
    scores: Scores = {f"{task_name}_within": within.values()}
    majority: Scores = {f"{task_name}_within": {}}
    for key in languages:
        floor = majority_baseline(task, train[key], {key: test[key]}).values()
        majority[f"{task_name}_within"][key] = floor[key]

    # Zero-shot needs labels of the pivot, and another language to transfer to.
    pivot = cell["pivot"]
    others = {key: rows for key, rows in test.items() if key != pivot}
    if pivot in languages and others:
        transferred = zero_shot(
            partial(_model_with_head, model_folder, task, cell["zero_shot_train"], cell["seed"]),
            task,
            train,
            test,
            tokenizer,
            settings,
            source_language=pivot,
        ).values()
        scores[f"{task_name}_zero_shot"] = {key: transferred[key] for key in others}
        floor = majority_baseline(task, train[pivot], others).values()
        majority[f"{task_name}_zero_shot"] = floor

    return scores, majority


def _model_with_head(model_folder: str, task: Task, train: str, seed: int) -> LanguageAdapterModel:
    # Every model of a cell starts from the same random head.
    transformers.set_seed(seed)
    return load_for_task(
        model_folder, transformers.AutoModelForTokenClassification, task, train=train
    )

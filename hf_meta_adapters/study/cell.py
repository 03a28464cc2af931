"""One cell of a study: pretrain by one method, score on text, fine-tune and score on tasks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import (
    ConstantPredictionWarning,
    MiswiringWarning,
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
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study.methods import pretrain

__all__ = ["compute_cell", "read_texts"]

Scores = dict[str, dict[Language, float]]
"""Measure → language → score."""

_MODEL = ("model_type", "sizes", "mlm_probability", "bottleneck_size", "steps", "seed")
_TOLD = (ConstantPredictionWarning, MiswiringWarning)


def read_texts(
    data: str | Path, split: str, languages: Sequence[Language], limit: int | None = None
) -> dict[Language, list[str]]:
    """Read the lines of `<data>/text/<language>/<split>.txt(.gz)`, or of the same without `text/`.

    Args:
        data: The folder.
        split: "train", "valid" or "test".
        languages: The languages.
        limit: Lines of each at most.

    Returns:
        Language → lines.

    Raises:
        DataError: If a file is missing or empty.
    """
    folder = Path(data) / "text" if (Path(data) / "text").is_dir() else Path(data)
    return {
        key: list(rows["text"])
        for key, rows in load_local_datasets(
            folder, split, languages=languages, limit=limit
        ).items()
    }


def compute_cell(
    cell: Mapping[str, Any], *, data: str | Path, tokenizer: str | Path
) -> dict[str, Any]:
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
        `meter`, `versions`, and `warnings` of scores not to be believed.

    Raises:
        DataError: If data is missing or malformed.
    """
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    transformers.logging.set_verbosity_error()  # else every new head is announced
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = _compute(cell, data, tokenizer)
    return {
        **result,
        "warnings": sorted({str(one.message) for one in caught if one.category in _TOLD}),
    }


def _compute(cell: Mapping[str, Any], data: str | Path, tokenizer: str | Path) -> dict[str, Any]:
    loaded = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
    languages = cell["languages"]
    texts = read_texts(data, "train", languages, cell["text_limit"])
    began, cpu = time.perf_counter(), time.process_time()
    options = {name: cell[name] for name in _MODEL}
    made = pretrain(cell["method"], texts, loaded, **options, **cell["training"])
    took = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    test = {
        key: [{"text": line} for line in lines]
        for key, lines in read_texts(data, cell["split"], languages, cell["test_limit"]).items()
    }
    scores: Scores = {
        "mlm": evaluate_languages(made.model, "masked_lm", test, processing_class=loaded).values()
    }
    majority: Scores = {}
    with TemporaryDirectory() as folder:
        if cell["tasks"]:
            made.model.save_pretrained(folder)
        for name in cell["tasks"]:
            for target, found in zip(
                (scores, majority), _task_scores(name, folder, cell, data, loaded), strict=True
            ):
                target |= found
    return {
        "scores": scores,
        "majority": majority,
        **took,
        "bytes": made.size_in_bytes,
        "examples": made.examples,
        "meta_examples": made.meta_examples,
        "meter": made.meter,
        "versions": {
            "hf_meta_adapters": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _task_scores(
    name: str, folder: str, cell: Mapping[str, Any], data: str | Path, tokenizer: Any
) -> tuple[Scores, Scores]:
    """The scores of one task by every protocol, and those of the most frequent label."""
    task, labelled, pivot = get_task(name), Path(data) / name, cell["pivot"]
    keys = [key for key in cell["languages"] if (labelled / key).is_dir()]
    if not keys:
        return {}, {}
    train = load_local_datasets(labelled, "train", languages=keys, limit=cell["labelled_limit"])
    test = load_local_datasets(labelled, "test", languages=keys, limit=cell["test_limit"])

    def make_model(trained: str) -> LanguageAdapterModel:
        transformers.set_seed(cell["seed"])  # the new head
        return load_for_task(
            folder, transformers.AutoModelForTokenClassification, task, train=trained
        )

    settings = FinetuningSettings(seed=cell["seed"], **cell["finetuning"])
    given = task, train, test, tokenizer, settings
    scores = {
        f"{name}_within": within_language(partial(make_model, cell["train"]), *given).values()
    }
    floor = {
        f"{name}_within": {
            k: majority_baseline(task, train[k], {k: test[k]}).values()[k] for k in keys
        }
    }
    others = {key: rows for key, rows in test.items() if key != pivot}
    if pivot in keys and others:
        found = zero_shot(
            partial(make_model, cell["zero_shot_train"]), *given, source_language=pivot
        ).values()
        scores[f"{name}_zero_shot"] = {key: found[key] for key in others}
        floor[f"{name}_zero_shot"] = majority_baseline(task, train[pivot], others).values()
    return scores, floor

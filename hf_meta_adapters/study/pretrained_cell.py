"""One cell of the study of a pretrained model: train it further, fine-tune it, and score it."""

from __future__ import annotations

import hashlib
import json
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import torch
import transformers
from datasets import Dataset

from hf_meta_adapters._typing import AutoClass, Language
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import (
    ConstantPredictionWarning,
    LanguageScores,
    MiswiringWarning,
    Task,
    evaluate_languages,
    get_task,
    majority_baseline,
)
from hf_meta_adapters.finetuning import FinetuningSettings
from hf_meta_adapters.finetuning.protocols import within_language, zero_shot
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.adapter_variants import TARGET, score_variants
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.continued_pretraining import (
    ContinuedPretraining,
    continue_pretraining,
)
from hf_meta_adapters.study.parallel_rows import ParallelRows
from hf_meta_adapters.study.pretrained_arms import PRETRAINED_ARMS
from hf_meta_adapters.study.whole_folder import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PARALLEL", "START", "PretrainedCell", "compute_pretrained_cell"]

START, PARALLEL = "start", "parallel"
"""The folders of what all cells of a study share: the encoder with a head; the parallel rows."""

Labelled: TypeAlias = Mapping[Language, Dataset]

_CLASSES: dict[str, AutoClass] = {
    "pos": transformers.AutoModelForTokenClassification,
    "ner": transformers.AutoModelForTokenClassification,
    "nli": transformers.AutoModelForSequenceClassification,
    "qa": transformers.AutoModelForQuestionAnswering,
}

_RECORDED_WARNINGS = (ConstantPredictionWarning, MiswiringWarning)

_OF_PRETRAINING = (
    *("version", "libraries", "digest", "languages"),
    *("arm", "options", "pretraining", "seed"),
)
"""The settings that determine the model that fine-tuning starts from."""


class PretrainedCell(TypedDict):
    """Everything that determines the scores of a cell."""

    # What the same settings may mean something else under.
    version: int
    libraries: dict[str, str]
    digest: str

    # The model and its training on text: of `ContinuedPretraining`, and of the arm.
    languages: list[Language]
    arm: str
    options: dict[str, Any]
    pretraining: dict[str, Any]
    seed: int

    # Fine-tuning: task → its settings; once with each seed of `finetuning_seeds`.
    protocol: str
    source: Language
    targets: list[Language]
    tasks: dict[str, dict[str, Any]]
    finetuning: dict[str, Any]
    finetuning_seeds: list[int]
    split: str


def compute_pretrained_cell(
    cell: PretrainedCell, *, data: str | Path, folder: str | Path
) -> dict[str, object]:
    """Train an arm on text, fine-tune it on every task with every seed, and score all languages.

    Args:
        cell: The settings.
        data: The folder with `text/<language>/train.txt(.gz)` and
            `<task>/<language>/<split>.jsonl(.gz)`.
        folder: The folder of the study, with `start/` and, for the objective `translations`,
            `parallel/`. The model is kept in `models/`, and not trained again if it is there.

    Returns:
        `scores` (task → variant of φ → language → a score for each seed of fine-tuning),
        `majority` (task → language → the score of the source's most frequent label), `pretraining`
        (losses and meter), `seconds` (of `pretraining` and `finetuning`), `device`, `versions`, and
        `warnings` of scores that should not be believed.

    Raises:
        ConfigurationError: If the options of the arm cannot work.
        DataError: If data is missing or malformed.
    """
    # Cells run side by side.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = _compute(cell, Path(data), Path(folder))

    doubts = {str(one.message) for one in caught if one.category in _RECORDED_WARNINGS}
    return {**result, "versions": library_versions(), "warnings": sorted(doubts)}


def _compute(cell: PretrainedCell, data: Path, folder: Path) -> dict[str, object]:
    began = time.perf_counter()
    model = folder / "models" / _name_of_model(cell)
    if not model.is_dir():
        _pretrain(cell, data, folder, model)
    record = json.loads((model / "training.json").read_text(encoding="utf-8"))
    pretrained = time.perf_counter()

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / START))
    scores: dict[str, dict[str, dict[Language, list[float]]]] = {}
    majority: dict[str, dict[Language, float]] = {}
    for name in cell["tasks"]:
        task, scored = get_task(name), _scored(cell, name, data)
        scores[name] = {}
        for seed in cell["finetuning_seeds"]:
            found = _task_scores(cell, name, seed, scored, (data, model), tokenizer)
            for variant, by_language in found.items():
                together = scores[name].setdefault(variant, {})
                for language, score in by_language.items():
                    together.setdefault(language, []).append(round(score, 6))

        # The score to beat. Question answering has no labels to count.
        if task.labels:
            train = _drawn(cell, name, data, cell["source"], seed=0)
            floor = majority_baseline(task, train, scored).values()
            majority[name] = {language: round(score, 6) for language, score in floor.items()}

    took = {
        "pretraining": round(pretrained - began, 1),
        "finetuning": round(time.perf_counter() - pretrained, 1),
    }
    return {
        "scores": scores,
        "majority": majority,
        "pretraining": record,
        "seconds": took,
        "device": _device(cell),
    }


def _device(cell: PretrainedCell) -> str:
    if not torch.cuda.is_available() or cell["finetuning"].get("use_cpu"):
        return "CPU"
    return torch.cuda.get_device_name()


def _name_of_model(cell: PretrainedCell) -> str:
    settings = {name: value for name, value in cell.items() if name in _OF_PRETRAINING}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{cell['arm']}-{cell['seed']}-{digest[:12]}"


def _pretrain(cell: PretrainedCell, data: Path, folder: Path, place: Path) -> None:
    settings = ContinuedPretraining(**cell["pretraining"])
    texts: Any
    if settings.objective == "translations":
        texts = ParallelRows.load(folder / PARALLEL)
    else:
        texts = _texts(data, tuple(cell["languages"]))

    options = cell["options"]
    rate = options["learning_rate"]
    training = {
        "learning_rate": rate,
        "adapter_learning_rate": rate * options["adapter_rate"],
        **options["training"],
    }
    model, record = continue_pretraining(
        PRETRAINED_ARMS[cell["arm"]],
        settings,
        folder / START,
        texts,
        seed=cell["seed"],
        training=training,
    )

    with whole_folder(place) as new:
        model.save_pretrained(new)
        write_text(new / "training.json", json.dumps(record))


def _task_scores(
    cell: PretrainedCell,
    name: str,
    seed: int,
    scored: Labelled,
    places: tuple[Path, Path],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, dict[Language, float]]:
    """The scores of every variant of φ of a model that was fine-tuned on one task."""
    (data, folder), task = places, get_task(name)
    made: list[LanguageAdapterModel] = []

    def make_model() -> LanguageAdapterModel:
        made.append(_model(cell, name, folder, task, seed))
        return made[-1]

    given = cell["tasks"][name]
    settings = FinetuningSettings(
        learning_rate=given["learning_rate"],
        max_steps=given["steps"],
        batch_size=given["batch_size"],
        max_length=given["max_length"],
        seed=seed,
        training=cell["finetuning"],
    )
    trained_on = [cell["source"]] if cell["protocol"] == "zero-shot" else list(scored)
    train = {key: _drawn(cell, name, data, key, seed) for key in trained_on}
    protocol: Any = within_language
    if cell["protocol"] == "zero-shot":
        protocol = partial(zero_shot, source_language=cell["source"])
    found = protocol(make_model, task, train, scored, tokenizer, settings)

    scores = {TARGET: found.values()}
    if cell["protocol"] != "zero-shot":
        return scores

    def score(adapters: Mapping[Language, Language]) -> LanguageScores:
        return evaluate_languages(
            made[-1],
            task,
            scored,
            adapters={key: adapters[key] for key in scored},
            processing_class=tokenizer,
            max_length=given["max_length"],
        )

    return {**scores, **score_variants(made[-1], score, cell["source"])}


def _model(
    cell: PretrainedCell, name: str, folder: Path, task: Task, seed: int
) -> LanguageAdapterModel:
    # The seed comes before the head, so that every arm starts from the same one.
    transformers.set_seed(seed)
    classes: dict[str, Any] = {}
    if task.labels:
        classes = {"id2label": task.id2label, "label2id": task.label2id}
    model = LanguageAdapterModel.from_pretrained(
        folder, auto_class=_CLASSES[name], shared=cell["pretraining"]["trained"], **classes
    )

    # φ stays as it came from text: the φ_l that is put in its place meets the θ that it knows.
    model.train_only(shared=True)
    return model


def _drawn(cell: PretrainedCell, name: str, data: Path, language: Language, seed: int) -> Dataset:
    """As many labelled examples of a language as the seed draws."""
    rows = _labelled(data / name, "train", language)
    numbers = list(range(len(rows)))
    random.Random(f"{seed}-{language}").shuffle(numbers)
    return rows.select(numbers[: cell["tasks"][name]["rows"]])


def _scored(cell: PretrainedCell, name: str, data: Path) -> Labelled:
    """Examples from all over a split, the same for every seed, of the languages that have some."""
    languages = list(cell["targets"])
    if cell["protocol"] == "zero-shot":
        languages = list(dict.fromkeys([cell["source"], *languages]))
    languages = [language for language in languages if (data / name / language).is_dir()]
    count = cell["tasks"][name]["scored_rows"]
    datasets = {key: _labelled(data / name, cell["split"], key) for key in languages}
    return {language: rows.select(_spread(len(rows), count)) for language, rows in datasets.items()}


# A process computes many cells from the same files.
@lru_cache(maxsize=2)
def _texts(data: Path, languages: tuple[Language, ...]) -> dict[Language, list[str]]:
    return read_texts(data, "train", languages)


@lru_cache(maxsize=64)
def _labelled(folder: Path, split: str, language: Language) -> Dataset:
    return load_local_datasets(folder, split, languages=[language])[language]


def _spread(size: int, count: int) -> Sequence[int]:
    return range(0, size, max(1, size // count))[:count]

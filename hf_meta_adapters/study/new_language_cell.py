"""The cells of the study of new languages: a family, and a language that is added to it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
import transformers
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation import evaluate_languages
from hf_meta_adapters.evaluation.languages_by_gradient import languages_by_gradient
from hf_meta_adapters.evaluation.nearest_languages import nearest_languages
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study._masked_training import MaskedTraining
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.continued_pretraining import ContinuedPretraining, continue_pretraining
from hf_meta_adapters.study.kept_inputs import kept_tokenizer
from hf_meta_adapters.study.methods import METHODS, method_arguments
from hf_meta_adapters.study.pretrained_cell import START
from hf_meta_adapters.study.whole_folder import whole_folder
from hf_meta_adapters.training.reptile_start import add_reptile_start

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

__all__ = ["FamilyCell", "GrowthCell", "compute_family", "compute_growth"]

FRESH = ""
"""The start of a fresh adapter."""

_METHOD = METHODS["adapters"]
_TASK = "masked_lm"


class FamilyCell(TypedDict):
    """Everything that determines a family, and which of its languages a new one is near to."""

    # What the same settings may mean something else under.
    version: int
    libraries: dict[str, str]
    digest: str

    # The encoder with its head, θ and φ of the family, and the start that Reptile gives it.
    head: dict[str, Any]
    family: list[Language]
    pretraining: dict[str, Any]
    options: dict[str, Any]
    reptile: dict[str, Any]
    seed: int

    # The languages that it lacks, and the rows that tell which are near.
    new: list[Language]
    near_rows: int


class GrowthCell(TypedDict):
    """Everything that determines the learning curve of a language from a start."""

    of_family: FamilyCell
    language: Language
    copy_from: str
    growth: dict[str, Any]
    steps: list[int]
    test_rows: int
    seed: int


def compute_family(cell: FamilyCell, *, data: str | Path, folder: str | Path) -> dict[str, Any]:
    """Train a family, with its start by Reptile, and rank its languages for each new one.

    Args:
        cell: The settings.
        data: The folder with `text/<language>/<split>.txt(.gz)`.
        folder: The folder of the study, with `start/`. The family is kept in `families/`.

    Returns:
        `nearest` (new language → language → bits per character), `gradient` (→ cosine), `record`
        (the losses of the family and of Reptile) and `versions`.
    """
    _quiet()
    place = _family(cell, Path(data), Path(folder))
    model, tokenizer = _loaded(cell, place), kept_tokenizer(str(place))
    several = read_texts(data, "train", [*cell["family"], *cell["new"]])
    texts = {
        key: [{"text": line} for line in _drawn(lines, key, cell["near_rows"], cell["seed"])]
        for key, lines in several.items()
    }
    family = {key: texts[key] for key in cell["family"]}

    nearest: dict[Language, dict[Language, float]] = {}
    gradient: dict[Language, dict[Language, float]] = {}
    options: Any = {"processing_class": tokenizer, "max_length": cell["pretraining"]["max_length"]}
    for language in cell["new"]:
        rows = texts[language]
        scores = nearest_languages(model, _TASK, rows, batch_size=8, **options)
        # what Reptile gave is an arm of its own
        nearest[language] = _rounded({key: scores[key] for key in scores if key in family})
        gradient[language] = _rounded(languages_by_gradient(model, _TASK, rows, family, **options))

    record = json.loads((place / "training.json").read_text(encoding="utf-8"))
    return {
        "nearest": nearest,
        "gradient": gradient,
        "record": record,
        "versions": library_versions(),
    }


def compute_growth(cell: GrowthCell, *, data: str | Path, folder: str | Path) -> dict[str, Any]:
    """Add a language to a family, train it with θ frozen, and score it along the way.

    Args:
        cell: The settings.
        data: The folder of the texts.
        folder: The folder of the study. A family that is not in `families/` is trained anew.

    Returns:
        `scores` (steps → bits per character of test text) and `versions`.
    """
    _quiet()
    of_family, language, given = cell["of_family"], cell["language"], cell["growth"]
    place = _family(of_family, Path(data), Path(folder))
    tokenizer = kept_tokenizer(str(place))

    # the seed comes before the adapter, so that a fresh one is the same every time
    transformers.set_seed(cell["seed"])
    model = _loaded(of_family, place)
    copy_from: Any = cell["copy_from"] or None
    if copy_from == "mean":
        copy_from = dict.fromkeys(of_family["family"], 1 / len(of_family["family"]))
    model.add_language(language, copy_from=copy_from)
    model.train_only(language)

    lines = read_texts(data, "train", [language])[language]
    rows = _rows(_drawn(lines, language, given["text_limit"], cell["seed"]), tokenizer, given)
    tests = read_texts(data, "test", [language])[language]
    curve = _Curve(model, language, _spread(tests, cell["test_rows"]), tokenizer, cell)
    curve.score(0)
    _train(cell, model, rows, curve, place)
    return {"scores": curve.scores, "versions": library_versions()}


class _Curve(TrainerCallback):
    """Bits per character of test text after some steps."""

    def __init__(
        self,
        model: LanguageAdapterModel,
        language: Language,
        lines: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        cell: GrowthCell,
    ) -> None:
        self.scores: dict[str, float] = {}
        self._model, self._language, self._tokenizer = model, language, tokenizer
        self._rows = [{"text": line} for line in lines]
        self._steps, self._length = cell["steps"], cell["growth"]["max_length"]

    def score(self, step: int) -> None:
        """Score the model as it is."""
        found = evaluate_languages(
            self._model,
            _TASK,
            {self._language: self._rows},
            processing_class=self._tokenizer,
            batch_size=8,
            max_length=self._length,
        )
        self.scores[str(step)] = round(found.values()[self._language], 5)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Score after the steps that are wanted."""
        if state.global_step in self._steps:
            self.score(state.global_step)


def _train(
    cell: GrowthCell, model: LanguageAdapterModel, rows: Dataset, curve: _Curve, place: Path
) -> None:
    given = cell["growth"]
    collator = transformers.DataCollatorForLanguageModeling(
        kept_tokenizer(str(place)), mlm_probability=given["mlm_probability"]
    )
    options = {
        "learning_rate": given["learning_rate"],
        "adapter_learning_rate": given["learning_rate"],
        "per_device_train_batch_size": given["batch_size"],
        # a curve is one of training at its beginning: no step is smaller for the last one's sake
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "remove_unused_columns": False,
        **given["training"],
    }
    masked = MaskedTraining({cell["language"]: rows}, collator, [curve])
    masked.run(model, method_arguments(_METHOD, max(cell["steps"]), cell["seed"], options))


def _family(cell: FamilyCell, data: Path, folder: Path) -> Path:
    """The folder of a family, which is trained unless it is there."""
    digest = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()
    place = folder / "families" / f"{cell['seed']}-{digest[:12]}"
    if place.is_dir():
        return place

    settings = ContinuedPretraining(**cell["pretraining"])
    texts = read_texts(data, "train", cell["family"])
    rate = cell["options"]["learning_rate"]
    training = {
        "learning_rate": rate,
        "adapter_learning_rate": rate * cell["options"]["adapter_rate"],
        **cell["options"]["training"],
    }
    start = folder / START
    model, record = continue_pretraining(
        _METHOD, settings, start, texts, seed=cell["seed"], training=training
    )

    reptile = dict(cell["reptile"])
    batch_size = reptile.pop("batch_size")
    tokenizer = kept_tokenizer(str(start))
    collator = transformers.DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=settings.mlm_probability
    )
    limits = {"max_length": settings.max_length}
    loaders: dict[Language, DataLoader[Any]] = {}
    for key, lines in texts.items():
        rows: Any = _rows(_drawn(lines, key, settings.text_limit, cell["seed"]), tokenizer, limits)
        loaders[key] = DataLoader(
            rows, batch_size, shuffle=True, drop_last=True, collate_fn=collator
        )
    losses = add_reptile_start(model, loaders, seed=cell["seed"], **reptile)

    with whole_folder(place) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        write_text(new / "training.json", json.dumps({**record, "reptile": _fifths(losses)}))
    return place


def _loaded(cell: FamilyCell, place: Path) -> LanguageAdapterModel:
    return LanguageAdapterModel.from_pretrained(
        place,
        auto_class=transformers.AutoModelForMaskedLM,
        shared=cell["pretraining"]["trained"],
    )


def _rows(
    lines: Sequence[str], tokenizer: PreTrainedTokenizerBase, limits: Mapping[str, Any]
) -> Dataset:
    tokens = tokenizer(list(lines), truncation=True, max_length=limits["max_length"])
    return Dataset.from_dict({"input_ids": tokens["input_ids"]})


def _drawn(lines: Sequence[str], language: Language, count: int, seed: int) -> list[str]:
    return random.Random(f"{seed}-{language}").sample(lines, min(count, len(lines)))


def _spread(lines: Sequence[str], count: int) -> Sequence[str]:
    return lines[:: max(1, len(lines) // count)][:count]


def _fifths(losses: Sequence[float]) -> list[float]:
    """The mean loss of each fifth of the rounds."""
    size = max(1, len(losses) // 5)
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 4) for part in parts]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 5) for key, value in values.items()}


def _quiet() -> None:
    # cells run side by side
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

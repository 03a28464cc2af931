"""One cell of the study of little text: train one arm on some rows, score it as it trains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import torch
import transformers
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.evaluation.lm_features import masked_lm_features
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.pretraining import new_model
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.other_indirect import FlippedIndirectTrainer, RandomIndirectTrainer
from hf_meta_adapters.study.selection_scores import Features, SelectionScores, score_languages
from hf_meta_adapters.study.sharpness import SharpnessAwareTrainer
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LittleTextCell", "compute_little_text_cell"]

_TRAINERS: dict[str, type[MetaAdapterTrainer]] = {
    "plain": MetaAdapterTrainer,
    "sharpness": SharpnessAwareTrainer,
    "random": RandomIndirectTrainer,
    "flipped": FlippedIndirectTrainer,
}

Texts: TypeAlias = Mapping[Language, Sequence[str]]
"""Language → lines."""


class LittleTextCell(TypedDict):
    """Everything that determines the scores of a cell."""

    # What the same settings may mean something else under.
    version: int
    libraries: dict[str, str]
    text: str

    # The data: `rows` and `test_rows` of each language at most; 0 test rows for trials.
    data: str
    scenario: str
    rows: dict[Language, int]
    selection_rows: int
    test_rows: int

    # The model and its training, see `arm_options`.
    arm: str
    options: dict[str, Any]
    model_type: str
    mlm_probability: float
    seed: int
    steps: int
    evaluate_every: int


def compute_little_text_cell(
    cell: LittleTextCell, *, tokenizers: Mapping[str, str | Path]
) -> dict[str, object]:
    """Train an arm on a few rows of each language, drawn by the seed, and score it.

    Args:
        cell: The settings.
        tokenizers: Scenario → the folder of its tokenizer.

    Returns:
        `scores` (`mlm`: language → bits per masked character of test text at the last step;
        `mlm_early`: the same at the best step on selection text), `selection` (step → mean bits on
        selection text), `best_step` and `versions`.

    Raises:
        DataError: If data is missing or malformed.
    """
    # Models this small lose more to threads than they gain, and cells run side by side.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokenizers[cell["scenario"]]))
    languages = list(cell["rows"])
    train = {
        language: _drawn(lines, cell["rows"][language], f"{cell['seed']}-{language}")
        for language, lines in read_texts(cell["data"], "train", languages).items()
    }

    # The seed comes before the weights, so that every arm starts from the same ones.
    transformers.set_seed(cell["seed"])
    model = _model(cell, languages, tokenizer)

    selection = _features(cell, "valid", cell["selection_rows"], tokenizer)
    test = _features(cell, "test", cell["test_rows"], tokenizer)
    scores = SelectionScores(model, selection, every=cell["evaluate_every"])
    with TemporaryDirectory() as folder:
        _train(cell, model, train, tokenizer, scores, folder)

    at_end = score_languages(model, test)
    scores.restore_best()
    at_best = score_languages(model, test)

    return {
        "scores": {"mlm": at_end, "mlm_early": at_best},
        "selection": {str(step): mean for step, mean in scores.means.items()},
        "best_step": scores.best_step,
        "versions": library_versions(),
    }


def _drawn(lines: Sequence[str], count: int, seed: str) -> list[str]:
    """Return some lines, all of them different from seed to seed where there are enough."""
    if count >= len(lines):
        return list(lines)
    return random.Random(seed).sample(list(lines), count)


def _model(
    cell: LittleTextCell, languages: Sequence[Language], tokenizer: PreTrainedTokenizerBase
) -> LanguageAdapterModel:
    options = cell["options"]
    base = new_model(
        transformers.AutoModelForMaskedLM, cell["model_type"], options["sizes"], tokenizer
    )

    adapter = None
    if options["own"]:
        adapter = BottleneckConfig(**options["adapter"])
    return get_language_model(base, adapter, languages)


def _features(
    cell: LittleTextCell, split: str, count: int, tokenizer: PreTrainedTokenizerBase
) -> Features:
    """Return rows of a split, the same for every seed, from all over its text."""
    if not count:
        return {}

    features = {}
    for language, lines in read_texts(cell["data"], split, list(cell["rows"])).items():
        chosen = lines[:: max(1, len(lines) // count)][:count]
        features[language] = masked_lm_features(tokenizer, chosen, language=language)
    return features


def _train(
    cell: LittleTextCell,
    model: LanguageAdapterModel,
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    scores: SelectionScores,
    folder: str,
) -> None:
    options = cell["options"]
    args = MetaAdapterTrainingArguments(
        output_dir=folder,
        max_steps=cell["steps"],
        warmup_steps=cell["steps"] // 10,
        seed=cell["seed"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options["training"],
    )

    further: dict[str, Any] = {}
    if options["trainer"] == "sharpness":
        further["radius"] = options["radius"]
    trainer = _TRAINERS[options["trainer"]](
        model,
        args,
        train_dataset={
            language: Dataset.from_dict(dict(tokenizer(list(lines), truncation=True)))
            for language, lines in texts.items()
        },
        data_collator=transformers.DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=cell["mlm_probability"]
        ),
        callbacks=[scores],
        **further,
    )

    # With `disable_tqdm`, transformers prints every log instead.
    trainer.remove_callback(PrinterCallback)
    trainer.train()

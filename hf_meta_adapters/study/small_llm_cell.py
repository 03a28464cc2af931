"""One cell of the study of a small language model: train it, score it, watch what it forgets."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.peft.lora import lora_config
from hf_meta_adapters.evaluation.language_model_score import bits_per_character
from hf_meta_adapters.evaluation.lm_features import causal_lm_features
from hf_meta_adapters.finetuning.scores import library_versions
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.pretraining import tokenize
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.small_llm_plan import ONE, OWN, START_SEED, SmallLlmCell
from hf_meta_adapters.study.whole_folder import whole_folder
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

__all__ = ["SmallLlmInputs", "compute_small_llm_cell", "score_text"]

_LINES = 4000
"""Of the text of a language, drawn for a run: more than any run reads."""

Features: TypeAlias = Mapping[Language, Sequence[Any]]
"""Language → rows of `causal_lm_features`."""


@dataclass(frozen=True)
class SmallLlmInputs:
    """Where a cell finds what it needs.

    Args:
        model: Folder or name of the base model, with its tokenizer.
        data: The folder of the text.
        folder: Where trained models are kept.
    """

    model: str
    data: str
    folder: str

    def base(self) -> Any:
        """The base model, in float32."""
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the base model."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.model)
        return tokenizer

    def test_features(self, cell: SmallLlmCell, languages: Sequence[Language]) -> dict[str, Any]:
        """Rows of test text, the same for every cell, from all over it.

        Args:
            cell: The settings: `test_rows` and `max_length`.
            languages: The languages.

        Returns:
            Language → rows of `causal_lm_features`.
        """
        tokenizer, count = self.tokenizer(), cell["test_rows"]
        features = {}
        for language, lines in read_texts(self.data, "test", languages).items():
            chosen = lines[:: max(1, len(lines) // count)][:count]
            features[language] = causal_lm_features(
                tokenizer, chosen, language=language, max_length=cell["max_length"]
            )
        return features

    def model_folder(self, cell: SmallLlmCell) -> Path:
        """Where the model that a cell trains, or starts from, is kept."""
        known = {name: value for name, value in cell.items() if name not in _OF_ADDITION}
        known["arm"] = cell["arm"] if cell["arm"] == ONE else "languages"
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        return Path(self.folder) / "models" / digest[:12]


_OF_ADDITION = {"part", "added", "added_steps", "watched", "watched_at", "seed", "test_rows"}
"""What the model that a language is added to does not depend on."""


class _Watch(TrainerCallback):
    """Scores a language at some steps of a run."""

    def __init__(
        self, model: LanguageAdapterModel, features: Features, language: Language, at: Sequence[int]
    ) -> None:
        self._model, self._rows = model, features[language]
        self._language, self._at = language, at
        self.scores: dict[int, float] = {}

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.global_step in self._at:
            rows = {self._language: self._rows}
            self.scores[state.global_step] = score_text(self._model, rows)[self._language]


def score_text(
    model: nn.Module, features: Features, *, routed: bool = True
) -> dict[Language, float]:
    """Compute the bits per character of each language.

    Args:
        model: The model.
        features: The rows of each language.
        routed: Whether the model knows languages; otherwise it is a plain one.

    Returns:
        Language → bits per character.
    """
    scores = {}
    for language, rows in features.items():
        score = bits_per_character(model, rows, language if routed else None)
        scores[language] = round(score.bits_per_character, 6)
    return scores


def compute_small_llm_cell(cell: SmallLlmCell, *, inputs: SmallLlmInputs) -> dict[str, object]:
    """Train the languages of a cell together, then the one that is added, and score both models.

    Args:
        cell: The settings.
        inputs: Where model and text are.

    Returns:
        `scores` (language → bits per character of test text, in the end), `versions`; of the
        family also `base` (the same of the base model) and `model` (the folder, under that of
        `inputs`); of an addition also `watched` (step → bits of the watched language; step 0 is
        before the addition).

    Raises:
        DataError: If data is missing or malformed.
    """
    # Cells run side by side.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    place = inputs.model_folder(cell)
    if not place.is_dir():
        model = _start(cell, inputs)
        _train(cell, model, inputs, cell["languages"], cell["steps"], START_SEED)
        with whole_folder(place) as new:
            model.save_pretrained(new)

    # Loaded in any case, so that a run that goes on and one that does not give the same.
    model = LanguageAdapterModel.from_pretrained(place).eval()
    result: dict[str, object] = {}
    if cell["part"] == "added":
        return _add(cell, model, inputs)

    features = inputs.test_features(cell, cell["languages"])
    if cell["part"] == "family":
        result["base"] = score_text(inputs.base().eval(), features, routed=False)
        result["model"] = str(place.relative_to(inputs.folder))
    return {"scores": score_text(model, features), **result, "versions": library_versions()}


def _start(cell: SmallLlmCell, inputs: SmallLlmInputs) -> LanguageAdapterModel:
    """The base with fresh LoRAs, of the same ranks together in every arm."""
    transformers.set_seed(START_SEED)
    adapter, rank = lora_config(cell["adapter_rank"]), cell["shared_rank"]
    if cell["arm"] == ONE:
        adapter, rank = None, rank + cell["adapter_rank"]
    return get_language_model(inputs.base(), adapter, cell["languages"], shared=lora_config(rank))


def _add(
    cell: SmallLlmCell, model: LanguageAdapterModel, inputs: SmallLlmInputs
) -> dict[str, object]:
    added, watched = cell["added"], cell["watched"]
    features = inputs.test_features(cell, [*cell["languages"], added])
    before = score_text(model, {watched: features[watched]})[watched]

    # The seed comes before the weights, so that every arm starts from the same ones.
    transformers.set_seed(cell["seed"])
    model.add_language(added)
    model.train_only(added, shared=cell["arm"] != OWN)
    watch = _Watch(model, features, watched, cell["watched_at"])
    _train(cell, model, inputs, [added], cell["added_steps"], cell["seed"], watch)

    return {
        "scores": score_text(model, features),
        "watched": {"0": before, **{str(step): one for step, one in watch.scores.items()}},
        "versions": library_versions(),
    }


def _train(
    cell: SmallLlmCell,
    model: LanguageAdapterModel,
    inputs: SmallLlmInputs,
    languages: Sequence[Language],
    steps: int,
    seed: int,
    *callbacks: TrainerCallback,
) -> None:
    texts = {}
    for language, lines in read_texts(inputs.data, "train", languages).items():
        drawn = random.Random(f"{seed}-{language}").sample(lines, min(_LINES, len(lines)))
        # The tokenizers of many decoders put nothing around a text.
        texts[language] = Dataset.from_dict({"text": [f"{line}\n" for line in drawn]})

    with TemporaryDirectory() as folder:
        arguments = MetaAdapterTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            warmup_steps=steps // 10,
            seed=seed,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **cell["training"],
        )
        tokenizer = inputs.tokenizer()
        trainer = MetaAdapterTrainer(
            model.train(),
            arguments,
            train_dataset=tokenize(texts, tokenizer, max_length=cell["max_length"]),
            processing_class=tokenizer,
            callbacks=[*callbacks],
        )

        # With `disable_tqdm`, transformers prints every log instead.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()

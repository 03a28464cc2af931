"""What the protocols have in common: models, stages, scores, and what is recorded of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch.distributed
from numpy import float64
from numpy.typing import NDArray

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import DataError, check_known_language
from hf_meta_adapters.evaluation import LanguageScores, Task, evaluate_languages
from hf_meta_adapters.evaluation.sanity import warn_if_not_learned
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._stage import Stage, StageRecord, train_stage
from hf_meta_adapters.finetuning._stage_arguments import check_training
from hf_meta_adapters.finetuning.shots import selected
from hf_meta_adapters.hub.tokenizer import save_tokenizer
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Datasets", "Drawn", "Experiment", "MakeModel", "joined", "target_languages"]

CHECKED_EXAMPLES = 64
"""How many training examples a model must have learned: enough to tell, and quick."""

SCORED_ROWS = 32
"""Test rows in a pass, where `per_device_eval_batch_size` is not given."""

MakeModel: TypeAlias = Callable[[], LanguageAdapterModel]
Datasets: TypeAlias = Mapping[Language, Rows]
Drawn: TypeAlias = Mapping[Language, Sequence[int]]
"""Language → numbers of rows."""

logger = logging.getLogger(__name__)


@dataclass
class Experiment:
    """The models of a protocol, from their making to their scores.

    Args:
        protocol: The name of the protocol.
        make_model: Makes the pretrained model with a new head, the same each time.
        task: The task.
        train: Language → labelled training examples.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.
        eval_datasets: Language → selection examples.
        save_directory: Where models are saved.

    Raises:
        ConfigurationError: If the settings cannot work.
    """

    protocol: str
    make_model: MakeModel
    task: Task
    train: Datasets
    test: Datasets
    tokenizer: PreTrainedTokenizerBase
    settings: FinetuningSettings
    eval_datasets: Datasets | None = None
    save_directory: str | Path | None = None
    stages: dict[str, StageRecord] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Check what can be checked before a model is made."""
        check_training(self.settings)

    @property
    def seed(self) -> int:
        """The seed of everything that is drawn."""
        seed: int = self.settings.given()["seed"]
        return seed

    def model(self, *trained: Language) -> LanguageAdapterModel:
        """Make the model, and check that it has the languages that are trained and scored."""
        model = self.make_model()
        for language in (*trained, *self.test):
            check_known_language(language, model.languages)
        return model

    def rows(self, drawn: Drawn) -> dict[Language, Rows]:
        """The training examples with these numbers."""
        return {language: selected(self.train[language], drawn[language]) for language in drawn}

    def fit(
        self,
        model: LanguageAdapterModel,
        name: str,
        train: Datasets,
        meta: Datasets | Literal["train"] | None = None,
        *,
        check: bool = True,
    ) -> None:
        """Train a model in one stage, and check that it has learned its first language.

        Args:
            model: The model.
            name: The name of the stage, for the record.
            train: Language → training examples.
            meta: Language → examples of the meta-gradient; or `"train"`, for training examples that
                a step does not train on.
            check: Whether to check that.
        """
        # A language that is only scored selects nothing: that would be labels of it.
        trained = {*train, *(meta if isinstance(meta, Mapping) else ())}
        selection = {
            key: rows for key, rows in (self.eval_datasets or {}).items() if key in trained
        }

        stage = Stage(train, meta, selection or None)
        record = train_stage(model, self.task, stage, self.tokenizer, self.settings)
        self.stages[name] = record
        if not check:
            return

        # On its training examples even a model that generalizes badly must beat the majority label.
        language, rows = next(iter(train.items()))
        examples = list(rows)[:CHECKED_EXAMPLES]
        scores = evaluate_languages(
            model, self.task, {language: examples}, processing_class=self.tokenizer
        )
        warn_if_not_learned(scores, self.task, examples)

    def score(
        self,
        model: LanguageAdapterModel,
        languages: Sequence[Language] | None = None,
        *,
        source_language: Language | None = None,
    ) -> LanguageScores:
        """Score a model on test data, each language with its φ.

        Args:
            model: The model.
            languages: The languages; default all of the test data.
            source_language: The language of the labels, if there is only one.
        """
        keys = list(self.test) if languages is None else languages
        return evaluate_languages(
            model,
            self.task,
            {key: self.test[key] for key in keys},
            source_language=source_language,
            processing_class=self.tokenizer,
            batch_size=self.settings.given().get("per_device_eval_batch_size", SCORED_ROWS),
            max_length=self.settings.max_length,
            progress=self.settings.progress,
        )

    def recorded(
        self,
        scores: LanguageScores,
        *,
        drawn: Mapping[str, Drawn] | None = None,
        without_labels: Sequence[Language] = (),
    ) -> LanguageScores:
        """Return scores with the record of how they came about.

        Args:
            scores: The scores.
            drawn: Role → language → the numbers of the rows that were drawn.
            without_labels: Languages that were scored without labels of their own.
        """
        details: dict[str, Any] = {
            "protocol": self.protocol,
            "seed": self.seed,
            "stages": {name: asdict(record) for name, record in self.stages.items()},
        }
        if drawn is not None:
            details["drawn"] = {
                role: {key: list(numbers) for key, numbers in of_role.items()}
                for role, of_role in drawn.items()
            }
        return replace(scores, details=details, without_labels=tuple(without_labels))

    def save(
        self, model: LanguageAdapterModel, scores: LanguageScores, name: Language | None = None
    ) -> None:
        """Save a model with its scores and the tokenizer, where that is asked for.

        Args:
            model: The model.
            scores: Its scores, for the card.
            name: The folder in `save_directory`, where there are several models.
        """
        # Every process has the same model; one of them writes it.
        started = torch.distributed.is_available() and torch.distributed.is_initialized()
        is_first = not started or torch.distributed.get_rank() == 0
        if self.save_directory is None or not is_first:
            return

        folder = Path(self.save_directory)
        if name is not None:
            folder = folder / name
        model.save_pretrained(folder, scores=scores)
        save_tokenizer(self.tokenizer, folder)


def target_languages(
    train: Datasets, test: Datasets, source: Language
) -> tuple[list[Language], list[Language]]:
    """Return the languages with few labels, and those that are scored without any.

    Args:
        train: Language → labelled examples.
        test: Language → test examples.
        source: The language of the many labels.

    Raises:
        LanguageError: If the source has no labels.
        DataError: If no other language has any.
    """
    check_known_language(source, train, what="`train`")
    targets = [language for language in train if language != source]
    if not targets:
        raise DataError(
            "A target language must have labels. Found them in `train` for the source language"
            f" {source!r} alone. Add labels of a target language, or use `zero_shot`."
        )

    without = [language for language in test if language not in train]
    if without:
        logger.warning(
            "No labels to train on in %s: these languages are scored zero-shot.", ", ".join(without)
        )
    return targets, without


def joined(scores_of_models: Sequence[LanguageScores]) -> LanguageScores:
    """Return the scores of several models, one language each, as those of one model."""
    scores: dict[Language, Mapping[str, float]] = {}
    examples: dict[Language, int] = {}
    per_example: dict[Language, Mapping[str, NDArray[float64]]] = {}
    for model_scores in scores_of_models:
        scores |= model_scores.scores
        examples |= model_scores.examples
        per_example |= model_scores.per_example

    return replace(scores_of_models[0], scores=scores, examples=examples, per_example=per_example)

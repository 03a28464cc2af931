"""What masked and causal language models share as tasks: the score in bits per character."""

from __future__ import annotations

from collections.abc import Sequence

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation.language_model_score import (
    LanguageModelScore,
    RowScore,
    score_rows,
    sum_rows,
)
from hf_meta_adapters.evaluation.task import Task, TaskScore

__all__ = ["LanguageModeling"]


class LanguageModeling(Task):
    """The score of a language model, see `bits_per_character`. The examples have a column `text`.

    Attributes:
        text_columns: The names that the column of texts may have.
    """

    metric = "bits_per_character"
    higher_is_better = False
    text_columns = ("text", "sentence")

    def decode(self, rows: Sequence[Feature], output: object) -> list[RowScore]:
        """Return bits, characters and tokens of each row."""
        return score_rows(rows, output)

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[RowScore]
    ) -> list[list[float]]:
        """Return bits, characters and tokens of each text."""
        return sum_rows(features, decoded, len(dataset)).tolist()

    def score(
        self, dataset: Rows, predictions: Sequence[list[float]], *, language: Language
    ) -> TaskScore:
        """Return bits per character and the loss in nats per token; per example what they sum."""
        score = LanguageModelScore.of_sums(predictions, language)
        return TaskScore(
            metrics={"bits_per_character": score.bits_per_character, "loss": score.loss},
            per_example={
                "bits": score.bits,
                "characters": score.characters,
                "tokens": score.tokens.astype(float),
            },
        )

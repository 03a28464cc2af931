"""Language models as tasks: bits per character of masked and of causal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._task import Task, TaskScore, register_task
from hf_meta_adapters.evaluation.bits import LanguageModelScore, score_rows, sum_rows
from hf_meta_adapters.evaluation.lm_features import causal_lm_features, masked_lm_features

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CausalLM", "LanguageModeling", "MaskedLM"]


class LanguageModeling(Task):
    """The score of a language model, see `bits_per_character`. The examples have a column `text`.

    Attributes:
        text_columns: The names that the column of texts may have.
    """

    metric = "bits_per_character"
    higher_is_better = False
    text_columns = ("text", "sentence")

    def decode(self, rows: Sequence[Feature], output: Any) -> list[tuple[float, float, int]]:
        """Return bits, characters and tokens of each row."""
        return score_rows(rows, output)

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[Any]
    ) -> list[list[float]]:
        """Return bits, characters and tokens of each text."""
        return sum_rows(features, decoded, len(dataset)).tolist()

    def score(self, dataset: Rows, predictions: Sequence[Any], *, language: Language) -> TaskScore:
        """Return bits per character and the loss in nats per token; per example bits, characters and tokens."""
        score = LanguageModelScore.of_sums(predictions, language)
        return TaskScore(
            {"bits_per_character": score.bits_per_character, "loss": score.loss},
            {
                "bits": score.bits,
                "characters": score.characters,
                "tokens": score.tokens.astype(float),
            },
        )


@register_task
class MaskedLM(LanguageModeling):
    """Bits per character of a masked language model on fixed masks, see `masked_lm_features`.

    Args:
        seed: Seed of the masks.
        mask_probability: The share of tokens that is masked.
    """

    name = "masked_lm"

    def __init__(self, *, seed: int = 0, mask_probability: float = 0.15) -> None:
        self.seed = seed
        self.mask_probability = mask_probability

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return the rows of `masked_lm_features`: for scoring, not for training, which wants new masks each time."""
        return masked_lm_features(
            tokenizer,
            column(dataset, self.text_columns, language),
            language=language,
            seed=self.seed,
            mask_probability=self.mask_probability,
            max_length=max_length,
        )


@register_task
class CausalLM(LanguageModeling):
    """Bits per character of a causal language model, see `causal_lm_features`."""

    name = "causal_lm"

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return the rows of `causal_lm_features`: for scoring, not for training."""
        texts = column(dataset, self.text_columns, language)
        return causal_lm_features(tokenizer, texts, language=language, max_length=max_length)

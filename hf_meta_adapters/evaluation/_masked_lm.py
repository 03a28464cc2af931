"""Masked language models as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._language_modeling import LanguageModeling
from hf_meta_adapters.evaluation.lm_features import masked_lm_features
from hf_meta_adapters.evaluation.task import register_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MaskedLM"]


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
        """Return rows of `masked_lm_features`: for scoring; training needs new masks each time."""
        return masked_lm_features(
            tokenizer,
            column(dataset, self.text_columns, language),
            language=language,
            seed=self.seed,
            mask_probability=self.mask_probability,
            max_length=max_length,
        )

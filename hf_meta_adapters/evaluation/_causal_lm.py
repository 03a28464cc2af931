"""Causal language models as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._language_modeling import LanguageModeling
from hf_meta_adapters.evaluation.lm_features import causal_lm_features
from hf_meta_adapters.evaluation.task import register_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CausalLM"]


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
        """Return rows of `causal_lm_features`: for scoring, not for training."""
        texts = column(dataset, self.text_columns, language)
        return causal_lm_features(tokenizer, texts, language=language, max_length=max_length)

"""Prove it: scores of language models and of tasks, language by language, within-language and zero-shot."""

from hf_meta_adapters.evaluation._bits_per_character import LanguageModelScore, bits_per_character
from hf_meta_adapters.evaluation._masked_lm import causal_lm_features, masked_lm_features

__all__ = ["LanguageModelScore", "bits_per_character", "causal_lm_features", "masked_lm_features"]

"""Language models as tasks: bits per character of masked and of causal ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.evaluation._bits_per_character import LanguageModelScore, score_rows, sum_rows
from hf_meta_adapters.evaluation._columns import column
from hf_meta_adapters.evaluation._forward import Feature
from hf_meta_adapters.evaluation._masked_lm import causal_lm_features, masked_lm_features
from hf_meta_adapters.evaluation._task import Rows, Task, TaskScore, register_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CausalLM", "LanguageModeling", "MaskedLM"]

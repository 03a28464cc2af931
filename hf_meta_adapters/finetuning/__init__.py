"""Fine-tune saved families on tasks: within a language, zero-shot from a source language, few-shot."""

from hf_meta_adapters.finetuning._experiment import FinetuningArguments, run_finetuning
from hf_meta_adapters.finetuning._finetune import FinetuningSettings, finetune, load_for_task
from hf_meta_adapters.finetuning._protocols import PROTOCOLS, few_shot, within_language, zero_shot

__all__ = [
    "PROTOCOLS",
    "FinetuningArguments",
    "FinetuningSettings",
    "few_shot",
    "finetune",
    "load_for_task",
    "run_finetuning",
    "within_language",
    "zero_shot",
]

"""Fine-tune saved families on tasks: within a language, zero-shot from another one, few-shot."""

from hf_meta_adapters.finetuning._finetune import finetune
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._load_for_task import load_for_task
from hf_meta_adapters.finetuning._protocols import PROTOCOLS, few_shot, within_language, zero_shot
from hf_meta_adapters.finetuning._run_finetuning import run_finetuning

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

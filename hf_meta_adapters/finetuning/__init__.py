"""Fine-tune saved families on tasks: within a language, zero-shot from another one, few-shot."""

from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.finetuning._finetune import finetune
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._load_for_task import load_for_task
from hf_meta_adapters.finetuning._run_finetuning import run_finetuning
from hf_meta_adapters.finetuning.few_labels import (
    joint_few_shot,
    meta_few_shot,
    projected_few_shot,
)
from hf_meta_adapters.finetuning.protocols import few_shot, within_language, zero_shot

__all__ = [
    "FinetuningArguments",
    "FinetuningSettings",
    "few_shot",
    "finetune",
    "joint_few_shot",
    "load_for_task",
    "meta_few_shot",
    "projected_few_shot",
    "run_finetuning",
    "within_language",
    "zero_shot",
]

__getattr__ = moved_names(__name__, {"PROTOCOLS": "hf_meta_adapters.finetuning.protocols"})

"""Measure negative interference in multilingual models, and treat it with meta-learned language adapters."""

from hf_meta_adapters._collators import get_data_collator
from hf_meta_adapters._routed_loss import RoutedLoss
from hf_meta_adapters._sparse_head import SparseHead
from hf_meta_adapters._version import __version__
from hf_meta_adapters.backends._bottleneck import BottleneckConfig
from hf_meta_adapters.backends._module_copy import ModuleCopyConfig
from hf_meta_adapters.callbacks import GradientConflictCallback
from hf_meta_adapters.data import check_roles, split_roles, temperature_distribution
from hf_meta_adapters.diagnostics import (
    LanguageMasks,
    gradient_conflict,
    interference_report,
    learn_language_masks,
    mask_overlap,
    plan_language_capacity,
)
from hf_meta_adapters.evaluation import bits_per_character, evaluate_languages, masked_lm_features
from hf_meta_adapters.hub import list_languages
from hf_meta_adapters.meta import MetaGradients, MetaOptions, MetaSignal
from hf_meta_adapters.meta_step import joint_step, meta_fidelity, meta_step
from hf_meta_adapters.modeling import LanguageAdapterModel, get_language_model
from hf_meta_adapters.trainer import MetaAdapterTrainer
from hf_meta_adapters.training_args import MetaAdapterTrainingArguments

__all__ = [
    "BottleneckConfig",
    "GradientConflictCallback",
    "LanguageAdapterModel",
    "LanguageMasks",
    "MetaAdapterTrainer",
    "MetaAdapterTrainingArguments",
    "MetaGradients",
    "MetaOptions",
    "MetaSignal",
    "ModuleCopyConfig",
    "RoutedLoss",
    "SparseHead",
    "__version__",
    "bits_per_character",
    "check_roles",
    "evaluate_languages",
    "get_data_collator",
    "get_language_model",
    "gradient_conflict",
    "interference_report",
    "joint_step",
    "learn_language_masks",
    "list_languages",
    "mask_overlap",
    "masked_lm_features",
    "meta_fidelity",
    "meta_step",
    "plan_language_capacity",
    "split_roles",
    "temperature_distribution",
]

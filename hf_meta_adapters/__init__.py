"""Measure negative interference in multilingual models; treat it by meta-learned adapters."""

from typing import TYPE_CHECKING

from hf_meta_adapters._version import __version__
from hf_meta_adapters.imports.after_peft import register_with_peft
from hf_meta_adapters.imports.lazy_names import lazy_names

if TYPE_CHECKING:
    from hf_meta_adapters.backends.bottleneck import BottleneckConfig
    from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
    from hf_meta_adapters.backends.registry import register_backend
    from hf_meta_adapters.data.language_column import by_language_column
    from hf_meta_adapters.data.overlap import check_roles
    from hf_meta_adapters.data.roles import split_roles
    from hf_meta_adapters.data.temperature import temperature_distribution
    from hf_meta_adapters.diagnostics import (
        gradient_conflict,
        interference_report,
        learn_language_masks,
        mask_overlap,
        plan_language_capacity,
    )
    from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
    from hf_meta_adapters.evaluation import evaluate_languages
    from hf_meta_adapters.evaluation.language_model_score import bits_per_character
    from hf_meta_adapters.evaluation.lm_features import masked_lm_features
    from hf_meta_adapters.evaluation.task import register_task
    from hf_meta_adapters.hub.citation import citation
    from hf_meta_adapters.hub.download import list_languages
    from hf_meta_adapters.meta import MetaGradients, MetaOptions, MetaSignal
    from hf_meta_adapters.modeling.factory import get_language_model
    from hf_meta_adapters.modeling.merge_families import merge_families
    from hf_meta_adapters.modeling.model import LanguageAdapterModel
    from hf_meta_adapters.steps.joint_step import joint_step
    from hf_meta_adapters.steps.meta_fidelity import meta_fidelity
    from hf_meta_adapters.steps.meta_step import meta_step
    from hf_meta_adapters.steps.next_step import next_step
    from hf_meta_adapters.steps.routed_loss import RoutedLoss
    from hf_meta_adapters.steps.sparse_head import SparseHead
    from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
    from hf_meta_adapters.training.conflict_callback import GradientConflictCallback
    from hf_meta_adapters.training.default_collator import get_data_collator
    from hf_meta_adapters.training.trainer import MetaAdapterTrainer
    from hf_meta_adapters.vocabulary.extending import extend_vocabulary

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
    "by_language_column",
    "check_roles",
    "citation",
    "evaluate_languages",
    "extend_vocabulary",
    "get_data_collator",
    "get_language_model",
    "gradient_conflict",
    "interference_report",
    "joint_step",
    "learn_language_masks",
    "list_languages",
    "mask_overlap",
    "masked_lm_features",
    "merge_families",
    "meta_fidelity",
    "meta_step",
    "next_step",
    "plan_language_capacity",
    "register_backend",
    "register_task",
    "split_roles",
    "temperature_distribution",
]

# A test compares them with the imports above, which type checkers read.
_HOMES = {
    "BottleneckConfig": "hf_meta_adapters.backends.bottleneck",
    "ModuleCopyConfig": "hf_meta_adapters.backends.module_copy",
    "register_backend": "hf_meta_adapters.backends.registry",
    "by_language_column": "hf_meta_adapters.data.language_column",
    "check_roles": "hf_meta_adapters.data.overlap",
    "split_roles": "hf_meta_adapters.data.roles",
    "temperature_distribution": "hf_meta_adapters.data.temperature",
    "LanguageMasks": "hf_meta_adapters.diagnostics.language_masks",
    "gradient_conflict": "hf_meta_adapters.diagnostics",
    "interference_report": "hf_meta_adapters.diagnostics",
    "learn_language_masks": "hf_meta_adapters.diagnostics",
    "mask_overlap": "hf_meta_adapters.diagnostics",
    "plan_language_capacity": "hf_meta_adapters.diagnostics",
    "evaluate_languages": "hf_meta_adapters.evaluation",
    "bits_per_character": "hf_meta_adapters.evaluation.language_model_score",
    "masked_lm_features": "hf_meta_adapters.evaluation.lm_features",
    "register_task": "hf_meta_adapters.evaluation.task",
    "citation": "hf_meta_adapters.hub.citation",
    "list_languages": "hf_meta_adapters.hub.download",
    "MetaGradients": "hf_meta_adapters.meta",
    "MetaOptions": "hf_meta_adapters.meta",
    "MetaSignal": "hf_meta_adapters.meta",
    "get_language_model": "hf_meta_adapters.modeling.factory",
    "merge_families": "hf_meta_adapters.modeling.merge_families",
    "LanguageAdapterModel": "hf_meta_adapters.modeling.model",
    "joint_step": "hf_meta_adapters.steps.joint_step",
    "meta_fidelity": "hf_meta_adapters.steps.meta_fidelity",
    "meta_step": "hf_meta_adapters.steps.meta_step",
    "next_step": "hf_meta_adapters.steps.next_step",
    "RoutedLoss": "hf_meta_adapters.steps.routed_loss",
    "SparseHead": "hf_meta_adapters.steps.sparse_head",
    "MetaAdapterTrainingArguments": "hf_meta_adapters.training.arguments",
    "GradientConflictCallback": "hf_meta_adapters.training.conflict_callback",
    "get_data_collator": "hf_meta_adapters.training.default_collator",
    "MetaAdapterTrainer": "hf_meta_adapters.training.trainer",
    "extend_vocabulary": "hf_meta_adapters.vocabulary.extending",
}
"""Name → the module that is imported when the name is first used."""

# A type checker that saw it would let every name pass.
if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_peft()

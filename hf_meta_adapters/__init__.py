"""Measure negative interference in multilingual models, and treat it with meta-learned language adapters."""

from hf_meta_adapters._version import __version__
from hf_meta_adapters.backends._bottleneck import BottleneckConfig
from hf_meta_adapters.meta import MetaGradients, MetaOptions, MetaSignal
from hf_meta_adapters.meta_step import meta_step
from hf_meta_adapters.modeling import LanguageAdapterModel, get_language_model
from hf_meta_adapters.trainer import MetaAdapterTrainer
from hf_meta_adapters.training_args import MetaAdapterTrainingArguments

__all__ = [
    "BottleneckConfig",
    "LanguageAdapterModel",
    "MetaAdapterTrainer",
    "MetaAdapterTrainingArguments",
    "MetaGradients",
    "MetaOptions",
    "MetaSignal",
    "__version__",
    "get_language_model",
    "meta_step",
]

"""Which rows come next, and from where: sampling, batches, roles of text, loaders of data."""

from hf_meta_adapters.data._local_files import load_local_datasets
from hf_meta_adapters.data._sampler import LanguageBatchSampler
from hf_meta_adapters.data._sources import load_language_datasets
from hf_meta_adapters.data._span_corruption import SpanCorruptionCollator
from hf_meta_adapters.data.language_collator import LanguageCollator
from hf_meta_adapters.data.language_datasets import LanguageDatasets
from hf_meta_adapters.errors import moved_names

__all__ = [
    "LanguageBatchSampler",
    "LanguageCollator",
    "LanguageDatasets",
    "SpanCorruptionCollator",
    "load_language_datasets",
    "load_local_datasets",
]

__getattr__ = moved_names(
    __name__,
    {
        "Key": "hf_meta_adapters.data.key",
        "LanguageRoles": "hf_meta_adapters.data.roles",
        "Role": "hf_meta_adapters.data.key",
        "StepBatch": "hf_meta_adapters.data.language_collator",
        "apportion": "hf_meta_adapters.data.temperature",
        "check_roles": "hf_meta_adapters.data.overlap",
        "seeded": "hf_meta_adapters.data.seeding",
        "size_of": "hf_meta_adapters.data.language_datasets",
        "split_roles": "hf_meta_adapters.data.roles",
        "temperature_distribution": "hf_meta_adapters.data.temperature",
    },
)

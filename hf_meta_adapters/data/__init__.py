"""Which language next: temperature sampling, batches of one language, and the roles of text."""

from hf_meta_adapters.data._collator import LanguageCollator, StepBatch
from hf_meta_adapters.data._dataset import LanguageDatasets, size_of
from hf_meta_adapters.data._key import Key, Role
from hf_meta_adapters.data._overlap import check_roles
from hf_meta_adapters.data._roles import LanguageRoles, split_roles
from hf_meta_adapters.data._sampler import LanguageBatchSampler
from hf_meta_adapters.data._seeding import seeded
from hf_meta_adapters.data._span_corruption import SpanCorruptionCollator
from hf_meta_adapters.data._temperature import apportion, temperature_distribution

__all__ = [
    "Key",
    "LanguageBatchSampler",
    "LanguageCollator",
    "LanguageDatasets",
    "LanguageRoles",
    "Role",
    "SpanCorruptionCollator",
    "StepBatch",
    "apportion",
    "check_roles",
    "seeded",
    "size_of",
    "split_roles",
    "temperature_distribution",
]

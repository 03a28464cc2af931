"""Copies of whole modules as a PEFT method, registered on import."""

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from hf_meta_adapters.backends.module_copy._config import PEFT_TYPE, ModuleCopyConfig
from hf_meta_adapters.backends.module_copy._tuner import ModuleCopyModel

__all__ = ["ModuleCopyConfig"]

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = ModuleCopyConfig
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = ModuleCopyModel
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = ModuleCopyModel.prefix

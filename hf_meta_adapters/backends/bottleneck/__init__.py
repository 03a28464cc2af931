"""The bottleneck adapter of the paper as a PEFT method, registered on import."""

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from hf_meta_adapters.backends.bottleneck._config import PEFT_TYPE, BottleneckConfig
from hf_meta_adapters.backends.bottleneck._tuner import BottleneckModel

__all__ = ["BottleneckConfig"]

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BottleneckModel.prefix

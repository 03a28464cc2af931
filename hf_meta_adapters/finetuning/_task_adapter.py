"""A task adapter: stacked on the adapters of the languages, and trained with the head alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig, PeftConfig
from transformers import AutoConfig, PreTrainedModel

from hf_meta_adapters._typing import AutoClass
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["TaskAdapterConfig", "default_task_adapter", "head_modules", "with_head"]

TaskAdapterConfig: TypeAlias = PeftConfig
"""The configuration of a task adapter: any method of PEFT that puts layers into the model."""


def default_task_adapter() -> LoraConfig:
    """Return the default task adapter: LoRA of rank 8 in all linear layers of the body."""
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")


def head_modules(path: str | Path, auto_class: AutoClass, body: str) -> list[str]:
    """Return the names of the modules of a head: the siblings of the body that hold parameters.

    Args:
        path: The folder of a saved model, whose configuration is read.
        auto_class: The class with the head.
        body: The name of the body.
    """
    config = AutoConfig.from_pretrained(str(path))

    # On the meta device, the skeleton of a large model costs no memory.
    with torch.device("meta"):
        # `AutoModelFor…` builds from a configuration by a method, the class of a model by its call.
        if isinstance(auto_class, type) and issubclass(auto_class, PreTrainedModel):
            skeleton = auto_class(config)
        else:
            skeleton = auto_class.from_config(config)

    return [
        name
        for name, module in skeleton.named_children()
        if name != body and next(module.parameters(), None) is not None
    ]


def with_head(config: TaskAdapterConfig, head: Sequence[str]) -> TaskAdapterConfig:
    """Return a copy of a configuration under which the head is trained whole, without the adapter.

    Args:
        config: A `peft.PeftConfig` with `modules_to_save`.
        head: The names of the modules of the head.

    Raises:
        ConfigurationError: If it has no `modules_to_save`.
    """
    # Not every method of PEFT trains modules whole: only the field tells which ones do.
    if not hasattr(config, "modules_to_save"):
        raise ConfigurationError(
            "A task adapter must be a PeftConfig with `modules_to_save`, for the head. Found"
            f" `{type(config).__name__}`. Use for example"
            ' `LoraConfig(target_modules="all-linear")`.'
        )

    config = copy.deepcopy(config)
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *head})

    # `target_modules="all-linear"` would otherwise put layers into the head.
    if getattr(config, "exclude_modules", None) is None:
        config.exclude_modules = rf"(?:{'|'.join(head)})(?:\..*)?"

    return config

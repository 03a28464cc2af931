"""A task adapter: trained with the head, on top of the adapters of the languages, while all else is frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["default_task_adapter", "head_modules", "with_head"]


def default_task_adapter() -> LoraConfig:
    """Return the task adapter where none is described: LoRA of rank 8 in all linear layers of the body."""
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")


def head_modules(path: str | Path, auto_class: Any, body: str) -> list[str]:
    """Return the names of the modules of a head: those that stand beside the body, and hold parameters.

    Args:
        path: The folder of a saved model, whose configuration is read.
        auto_class: The class with the head.
        body: Name of the body.
    """
    make = getattr(auto_class, "from_config", auto_class)
    with torch.device("meta"):
        skeleton = make(AutoConfig.from_pretrained(str(path)))
    return [
        name
        for name, part in skeleton.named_children()
        if name != body and any(True for _ in part.parameters())
    ]


def with_head(config: Any, head: Sequence[str]) -> Any:
    """Return a copy of the configuration of a task adapter that trains the head whole, and is not put into it.

    Args:
        config: A `peft.PeftConfig` with `modules_to_save`.
        head: Names of the modules of the head.

    Raises:
        ConfigurationError: If it has no `modules_to_save`.
    """
    if not hasattr(config, "modules_to_save"):
        raise ConfigurationError(
            "A task adapter must be a PeftConfig with `modules_to_save`, for the head. Found "
            f"`{type(config).__name__}`. Write for example"
            ' `LoraConfig(target_modules="all-linear")`.'
        )
    config = copy.deepcopy(config)
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *head})
    if getattr(config, "exclude_modules", None) is None:
        config.exclude_modules = rf"(?:{'|'.join(head)})(?:\..*)?"
    return config

"""What a saved adapter says of the task of its model, by which PEFT's `AutoPeftModel…` loads it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

_START = "base_model.model."
"""What PEFT puts before the names of the base model."""

# A class may be in several: BART predicts masked words as well as texts.
_TASKS: Mapping[str, Mapping[str, object]] = {
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
"""Task type of PEFT → the classes that transformers has for it."""

_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type → how the modules of the head end that PEFT reads from the file of each adapter."""


def with_task(config: PeftConfig, base: nn.Module, *, has_head: bool = True) -> PeftConfig:
    """A copy of a configuration that says what kind of model the adapter is of.

    Args:
        config: The configuration.
        base: The transformers model.
        has_head: Whether the file can have the head of a classifier, too.

    Returns:
        The configuration, with a task type or, for models that PEFT has none for, the class.
    """
    config = copy.deepcopy(config)
    if config.task_type is not None:
        return config

    task = _task_of(base)
    if task in _HEADS and not (has_head and _is_free(base, task, config)):
        task = None

    module = type(base).__module__
    if task is not None:
        config.task_type = task
    elif module.startswith("transformers."):
        # as PEFT saves it; it imports nothing but transformers by such a name
        config.auto_mapping = {"base_model_class": type(base).__name__, "parent_library": module}
    return config


def without_task(config: PeftConfig) -> PeftConfig:
    """The configuration without what `with_task` added, for a model of perhaps another class."""
    # prompt methods and activated LoRA cannot do without a task
    needs_task = config.is_prompt_learning or vars(config).get("alora_invocation_tokens")
    if not needs_task:
        config.task_type = None

    config.auto_mapping = None
    return config


def head_tensors(base: nn.Module, task: str | None) -> dict[str, Tensor]:
    """The head of a classifier under the names of a file, where PEFT looks for it; else nothing.

    Args:
        base: The transformers model.
        task: The task type in the configuration of the adapter.
    """
    starts = tuple(f"{place}." for place in _places(base, task or ""))
    state = base.state_dict(keep_vars=True)
    return {f"{_START}{name}": part for name, part in state.items() if name.startswith(starts)}


def _task_of(base: nn.Module) -> str | None:
    name = type(base).__name__
    for task, classes in _TASKS.items():
        if any(name == found or name in _listed(found) for found in classes.values()):
            return task

    return None


def _listed(found: object) -> Collection[str]:
    # a type of model may have several classes for a task
    return found if isinstance(found, (list, tuple)) else ()


def _is_free(base: nn.Module, task: str, config: PeftConfig) -> bool:
    """Whether the head is the shared one, so that PEFT can take it for a copy of its own."""
    parts = [part for place in _places(base, task) for part in base.get_submodule(place).modules()]
    adapted = (BaseTunerLayer, AuxiliaryTrainingWrapper)

    is_adapted = any(isinstance(part, adapted) for part in parts)
    return bool(parts) and not is_adapted and not vars(config).get("modules_to_save")


def _places(base: nn.Module, task: str) -> list[str]:
    """The modules of the head, as PEFT finds them; none for other tasks."""
    heads = _HEADS.get(task)
    if heads is None:
        return []

    return [name for name, _ in base.named_modules() if name.endswith(heads)]

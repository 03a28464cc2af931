"""The parameters φ, and their groups in an optimizer of θ and φ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.modeling.model import LanguageAdapterModel


def adapter_parameters(model: LanguageAdapterModel, languages: Sequence[Language]) -> list[Tensor]:
    """The parameters φ_l of some languages of a model."""
    parameters: list[Tensor] = []
    for language in languages:
        parameters += model.language_parameters(language).values()
    return parameters


def split_groups(
    optimizer: torch.optim.Optimizer, adapters: Sequence[Tensor], learning_rate: float
) -> None:
    """Move the parameters φ of an optimizer into groups of their own, in place.

    Args:
        optimizer: An optimizer that has not taken a step.
        adapters: φ of all languages.
        learning_rate: The rate of the new groups.
    """
    identities = {id(parameter) for parameter in adapters}

    for group in list(optimizer.param_groups):
        shared = [parameter for parameter in group["params"] if id(parameter) not in identities]
        moved = [parameter for parameter in group["params"] if id(parameter) in identities]
        if moved:
            # The old group first: a parameter must not be in two groups.
            group["params"] = shared
            optimizer.add_param_group({**group, "params": moved, "lr": learning_rate})

    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def optimizer_settings(optimizer: torch.optim.Optimizer, *, sharded: bool) -> dict[str, object]:
    """What must be the same where the state of an optimizer is loaded into another one, JSON.

    Args:
        optimizer: The optimizer.
        sharded: Whether its parameters are divided among processes.

    Returns:
        name → value.
    """
    optimizer = unwrapped(optimizer)

    shapes = []
    for group in optimizer.param_groups:
        shapes.append([list(parameter.shape) for parameter in group["params"]])

    settings: dict[str, object] = {"optimizer": type(optimizer).__name__, "parameters": shapes}
    if sharded:
        settings["sharded"] = True  # absent otherwise, as in checkpoints of earlier versions

    return settings


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside the wrapper that Accelerate may have put around it."""
    if isinstance(optimizer, AcceleratedOptimizer):
        inner: torch.optim.Optimizer = optimizer.optimizer
        return inner
    return optimizer

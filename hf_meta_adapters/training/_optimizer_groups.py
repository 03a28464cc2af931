"""The parameters φ, and their groups in an optimizer of θ and φ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


def adapter_parameters(model: LanguageAdapterModel, languages: Sequence[Language]) -> list[Tensor]:
    """The parameters φ_l of some languages of a model."""
    parameters: list[Tensor] = []
    for language in languages:
        parameters += model.language_parameters(language).values()
    return parameters


def embedding_parameters(model: LanguageAdapterModel) -> list[Tensor]:
    """The parameters of θ in the input and the output embeddings, or in layers of PEFT there."""
    base: Any = model.base_model
    parts = [base.get_input_embeddings(), base.get_output_embeddings()]
    inside = {
        id(parameter) for part in parts if part is not None for parameter in part.parameters()
    }
    return [
        parameter for parameter in model.shared_parameters().values() if id(parameter) in inside
    ]


def give_rates(
    optimizer: torch.optim.Optimizer,
    model: LanguageAdapterModel,
    adapters: Sequence[Tensor],
    args: MetaAdapterTrainingArguments,
) -> float | None:
    """Give embeddings and φ groups of their own in a new optimizer, and their rates.

    Args:
        optimizer: An optimizer that has not taken a step.
        model: The model.
        adapters: φ of all languages that are trained.
        args: The arguments, with the rates.

    Returns:
        The rate of φ, whose groups are the last ones; `None` without φ.
    """
    rate = optimizer.param_groups[0]["lr"]
    if args.embedding_learning_rate is not None:
        split_groups(optimizer, embedding_parameters(model), args.embedding_learning_rate)
    if not adapters:
        return None

    of_adapters = args.adapter_rate(rate, beside_shared=bool(model.shared_parameters()))
    split_groups(optimizer, adapters, of_adapters)
    return of_adapters


def split_groups(
    optimizer: torch.optim.Optimizer, adapters: Sequence[Tensor], learning_rate: float
) -> None:
    """Move parameters of an optimizer into groups of their own, the last ones, in place.

    Args:
        optimizer: An optimizer that has not taken a step.
        adapters: The parameters, such as φ of all languages.
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

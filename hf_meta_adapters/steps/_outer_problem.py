"""What the mathematics gets from a step on a model: losses, parameters, and the virtual step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss, Parameters
from hf_meta_adapters.errors import ConfigurationError, DataError, check_known_language
from hf_meta_adapters.meta import SGD, Adam, InnerOptimizer
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._batch_losses import batch_losses, train_losses
from hf_meta_adapters.steps.losses import Batches, micro_batches
from hf_meta_adapters.steps.sharding import reshard
from hf_meta_adapters.steps.step_context import StepContext


@dataclass(frozen=True)
class OuterProblem:
    """The losses and parameters of an outer step.

    Args:
        train: L_i^train of each language, by micro-batch.
        meta: L_j^val of each language, by micro-batch.
        shared: θ, by name.
        language: φ_l of each language, by name.
    """

    train: Mapping[Language, Sequence[Loss]]
    meta: Mapping[Language, Sequence[Loss]]
    shared: Parameters
    language: dict[Language, Parameters]


def outer_problem(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    context: StepContext,
    *,
    mixed_rows: float,
) -> OuterProblem:
    """The losses and parameters of an outer step, one language after the other.

    Args:
        model: The model.
        train_batches: The training batches of each language.
        meta_batches: The validation batches of each language.
        context: How a batch is evaluated.
        mixed_rows: The share of the training rows of which mixed products are taken.

    Returns:
        The problem.

    Raises:
        LanguageError: If the model does not know a language.
        DataError: If a language has no batch.
    """
    check_batches(model, train_batches, meta_batches)

    return OuterProblem(
        train=train_losses(model, train_batches, context, mixed_rows),
        meta=batch_losses(model, meta_batches, context),
        shared=model.shared_parameters(),
        language={key: model.language_parameters(key) for key in {**train_batches, **meta_batches}},
    )


def check_batches(model: LanguageAdapterModel, *roles: Mapping[Language, Batches]) -> None:
    """Check that the model knows each language, and that each has a batch.

    Args:
        model: The model. Parameters that an evaluation under FSDP2 has left gathered are resharded:
            the step differentiates with respect to the shards.
        *roles: The batches of each language.

    Raises:
        LanguageError: If the model does not know a language.
        DataError: If a language has no batch, or one without a token.
    """
    reshard(model)

    for batches in roles:
        for key, language_batches in batches.items():
            check_known_language(key, model.languages)

            if not language_batches:
                raise DataError(
                    f"Every language of a step needs a batch. Found none for {key!r}. Leave the"
                    " language out."
                )

            for batch in micro_batches(language_batches):
                _check_tokens(key, batch)


def check_separate(
    surgery: Surgery | None, weights: StepWeights | None, languages_per_pass: int
) -> None:
    """Check that each language has a gradient of its own where gradients are weighed.

    Args:
        surgery: What weighs them, if something does.
        weights: The weights of the languages, if they are given.
        languages_per_pass: How many languages share a forward pass.

    Raises:
        ConfigurationError: If several languages share a pass.
    """
    for rule, found in (
        ("Gradient surgery weighs the gradients of single languages.", surgery),
        ("Weights of languages need a pass of each language.", weights),
    ):
        if found is not None and languages_per_pass != 1:
            raise ConfigurationError(
                f"{rule} Found `languages_per_pass={languages_per_pass}`, whose languages share a"
                f" gradient, beside {found!r}. Use `languages_per_pass=1`, or leave the other out."
            )


def _check_tokens(key: Language, batch: Batch) -> None:
    """Refuse a batch without a token; the shape tells, without waiting for a device."""
    tokens = batch.get("input_ids")
    if isinstance(tokens, Tensor) and tokens.numel() == 0:
        raise DataError(
            "A batch must have at least one token. Found `input_ids` of shape"
            f" {tuple(tokens.shape)} for {key!r}. Remove empty texts from its data."
        )


def choose_inner_optimizer(
    rule: str | InnerOptimizer,
    optimizer: torch.optim.Optimizer | None,
    model: LanguageAdapterModel,
) -> InnerOptimizer:
    """The rule Δ of the virtual step.

    Args:
        rule: `"sgd"`, `"adam"`, or the rule itself.
        optimizer: The optimizer of θ, whose state `"adam"` reads.
        model: The model, which holds θ.

    Returns:
        The rule.

    Raises:
        ConfigurationError: If the name is unknown, or the optimizer does not fit it.
    """
    if isinstance(rule, InnerOptimizer):
        return rule
    if rule == "sgd":
        return SGD()

    if rule != "adam":
        raise ConfigurationError(
            f'`inner_optimizer` must be "sgd", "adam" or an InnerOptimizer. Found {rule!r}.'
        )

    if optimizer is None:
        raise ConfigurationError(
            '`inner_optimizer="adam"` reads the state of the optimizer of θ. Found none. Pass it:'
            " `meta_step(..., optimizer=optimizer)`."
        )

    return Adam.of(optimizer, list(model.shared_parameters().values()))

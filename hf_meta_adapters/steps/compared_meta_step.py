"""The outer step with all rows, and how near it a sample of the rows would have come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Autocast, Language, Loss
from hf_meta_adapters.meta import InnerOptimizer, MetaGradients, meta_gradient
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords, outer_step_settings
from hf_meta_adapters.meta.remembered_losses import remembered
from hf_meta_adapters.meta.sample_agreement import SampleAgreement
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._outer_problem import choose_inner_optimizer, outer_problem
from hf_meta_adapters.steps._same_step import check_same_step
from hf_meta_adapters.steps._sample_scales import sample_scales
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["compared_meta_step"]


def compared_meta_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    *,
    inner_learning_rate: float,
    inner_optimizer: str | InnerOptimizer = "sgd",
    optimizer: torch.optim.Optimizer | None = None,
    for_languages: Sequence[Language] | None = None,
    loss_function: LossFunction | None = None,
    autocast: Autocast = nullcontext,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    **options: Unpack[OuterStepKeywords],
) -> tuple[MetaGradients, SampleAgreement]:
    """Compute `meta_step` with all rows, and beside it the meta-gradient with a sample of them.

    Both are taken of the same batches with the same random numbers, so that they differ by the rows
    of the mixed product alone. It costs about as much as two steps.

    Args:
        model: As for `meta_step`.
        train_batches: As for `meta_step`.
        meta_batches: As for `meta_step`.
        inner_learning_rate: As for `meta_step`.
        inner_optimizer: As for `meta_step`.
        optimizer: As for `meta_step`.
        for_languages: As for `meta_step`.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        **options: As for `meta_step`; `mixed_rows` is the share of the sample.

    Returns:
        The gradients with all rows, and how far those with the sample agree with them.

    Raises:
        ConfigurationError: As by `meta_step`.
        LanguageError: As by `meta_step`.
        DataError: As by `meta_step`.
    """
    check_same_step(
        model,
        all_reduce,
        {
            "the function": "compared_meta_step",
            "the languages of the training batches": list(train_batches),
            "the languages of the meta batches": list(meta_batches),
            "the options": [for_languages, inner_learning_rate, *options.items()],
        },
    )
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)
    rule = choose_inner_optimizer(inner_optimizer, optimizer, model)
    share = outer_step_settings(**options).options.mixed_rows
    problem = outer_problem(model, train_batches, meta_batches, context, mixed_rows=share)

    train = remembered(problem.train, model.device)
    meta = remembered(problem.meta, model.device)

    def gradient(
        losses: Mapping[Language, Sequence[Loss]], given: OuterStepKeywords
    ) -> MetaGradients:
        return meta_gradient(
            losses,
            meta,
            problem.shared,
            problem.language,
            inner_learning_rate=inner_learning_rate,
            inner_optimizer=rule,
            for_languages=for_languages,
            all_reduce=all_reduce,
            loss_scale=loss_scale,
            precision=context.precision(model.device),
            **given,
        )

    # All rows first: they draw the random numbers of the step.
    every = {key: list(own) for key, own in train.items()}
    whole = gradient(every, {**options, "mixed_rows": 1.0})

    # What the update of θ remembers of its steps, and how it is weighed, is no matter of the rows.
    apart: OuterStepKeywords = {"surgery": None, "step_weights": None, "train_gradients": False}
    sampled = gradient(train, {**options, **apart})
    return whole, SampleAgreement.of(sampled.language, whole.language, sample_scales(train))

"""The outer step of Algorithm 1 on a model: batches in, gradients out; no optimizer is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Autocast, Language
from hf_meta_adapters.errors import ConfigurationError, check_known_language, check_languages
from hf_meta_adapters.meta import InnerOptimizer, MetaGradients, MetaOptions, meta_gradient
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords, outer_step_settings
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._outer_problem import (
    check_batches,
    check_separate,
    choose_inner_optimizer,
    outer_problem,
)
from hf_meta_adapters.steps._same_step import check_same_step
from hf_meta_adapters.steps.language_groups import LanguageGroups
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext

if TYPE_CHECKING:
    from typing_extensions import Unpack


def meta_step(
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
    languages_per_pass: int = 1,
    **options: Unpack[OuterStepKeywords],
) -> MetaGradients:
    """Compute the meta-gradient of every φ_l and the training gradient of θ from batches.

    The outer step of Algorithm 1 (Wang, Lipton and Tsvetkov, EMNLP 2020); `meta.meta_gradient` has
    the equations. Use it in your own training loop, for example with Accelerate;
    `MetaAdapterTrainer` uses it too. θ, φ, every `.grad` and the language that was set are
    afterwards as they were.

    Args:
        model: The model; its training mode (dropout) is left as it is.
        train_batches: For each language of the step a batch of its training text, or several
            (gradient accumulation); several count by their labels, so that k batches give the
            gradient of one that is k times as large.
        meta_batches: Likewise of its held-out text; of the languages of `train_batches`, or of
            those that `meta_languages` names.
        inner_learning_rate: β, the size of the virtual step.
        inner_optimizer: `"sgd"` (the paper's), `"adam"` (the step that `optimizer` would take) or
            an `InnerOptimizer`.
        optimizer: The optimizer of θ; `inner_optimizer="adam"` needs it, and only reads it.
        for_languages: The languages whose meta-gradients are wanted; default all of both roles.
        loss_function: `(model, batch) -> loss`, a mean over the labels of the batch; default the
            loss that the model returns.
        autocast: Makes the context in which losses are evaluated, such as `accelerator.autocast`.
        all_reduce: Sums a flat tensor over processes in place. Needed on several processes, which
            call this function together, with the same model, languages (in the same order) and
            options, each with its own part of every batch. The first step of a model compares them.
        loss_scale: A factor, 0-d, applied to the losses of backward passes and divided out of
            everything that is returned; fp16 needs it: the scale of a `torch.amp.GradScaler`.
        languages_per_pass: How many languages share a forward pass, each row through the φ of its
            language, where method and loss allow it (see `RoutedLoss`; pass one as `loss_function`,
            or else it is made and checked in each step). The gradients are the same without
            dropout; memory grows with the number of rows in a pass.
        **options: The fields of `MetaOptions`, and
            `preset`: `"paper"` or `"fast"`; options passed beside it override it.
            `seed`: the seed of the draws of languages under `meta_languages_per_step` and
            `mixed_languages` (default 0); pass another one in each step.
            `train_gradients`: whether to return the training gradients of φ too (`.train`, default
            `True`), which have the size of all φ.
            `surgery`: a `Surgery`, the same object in every step, makes `.shared` a weighted sum of
            the training gradients of θ in place of their mean.
            `step_weights`: the weights of the languages in `.shared` (`StepWeights`); by default,
            their mean.

    Returns:
        The gradients by parameter name, their direct and indirect parts, the losses and the meter.

    Raises:
        ConfigurationError: If options, θ and optimizer cannot work together, or processes take
            different steps.
        LanguageError: If a language is unknown to the model or the step, or misses its meta batch.
        DataError: If a language has no batch.

    Example:
        >>> import torch
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> config = BottleneckConfig(bottleneck_size=2)
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> batches = {"en": words, "sw": words}
        >>> step = meta_step(model, batches, batches, inner_learning_rate=0.01)
        >>> sorted(step.language)
        ['en', 'sw']
    """
    settings = outer_step_settings(**options)
    _check_lookahead(settings.options)
    _check_targets(for_languages, {**train_batches, **meta_batches})
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)
    rule = choose_inner_optimizer(inner_optimizer, optimizer, model)
    given = {
        "the function": "meta_step",
        "the languages of the training batches": list(train_batches),
        "the languages of the meta batches": list(meta_batches),
        "the options": [for_languages, inner_learning_rate, languages_per_pass, *options.items()],
    }
    check_same_step(model, all_reduce, given)

    # To the mathematics, a group of languages that share their passes is one language.
    if languages_per_pass != 1:
        check_separate(settings.surgery, settings.step_weights, languages_per_pass)
        check_batches(model, train_batches, meta_batches)
        groups = LanguageGroups(model, list(train_batches), languages_per_pass, context)

        return groups.meta_gradient(
            train_batches,
            meta_batches,
            settings,
            inner_learning_rate=inner_learning_rate,
            inner_optimizer=rule,
            for_languages=for_languages,
        )

    problem = outer_problem(
        model, train_batches, meta_batches, context, mixed_rows=settings.options.mixed_rows
    )

    return meta_gradient(
        problem.train,
        problem.meta,
        problem.shared,
        problem.language,
        inner_learning_rate=inner_learning_rate,
        inner_optimizer=rule,
        for_languages=for_languages,
        all_reduce=all_reduce,
        loss_scale=loss_scale,
        precision=context.precision(model.device),
        **options,
    )


def _check_lookahead(options: MetaOptions) -> None:
    if options.lookahead == "next":
        raise ConfigurationError(
            '`lookahead="next"` looks ahead by the step that the optimizer really takes. Found it'
            " in `meta_step`, which knows one step. Use `next_step(model, train_batches,"
            " optimizer=optimizer, kept=...)`."
        )


def _check_targets(
    for_languages: Sequence[Language] | None, batches: Mapping[Language, Batches]
) -> None:
    """Check that the step has the languages whose meta-gradients are wanted."""
    if for_languages is None:
        return

    for key in check_languages(for_languages):
        check_known_language(key, batches, what="this step")

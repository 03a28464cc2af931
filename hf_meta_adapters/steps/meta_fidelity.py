"""How close a setting of the outer step is to the paper's gradient, on a model and its batches."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Autocast, Language
from hf_meta_adapters.meta import InnerOptimizer, fidelity
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords, outer_step_settings
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._outer_problem import choose_inner_optimizer, outer_problem
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext

if TYPE_CHECKING:
    from typing_extensions import Unpack


def meta_fidelity(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    *,
    inner_learning_rate: float,
    inner_optimizer: str | InnerOptimizer = "sgd",
    optimizer: torch.optim.Optimizer | None = None,
    loss_function: LossFunction | None = None,
    autocast: Autocast = nullcontext,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    **options: Unpack[OuterStepKeywords],
) -> Tensor:
    """Compute the cosine between the meta-gradient of `meta_step` and the exact one of the paper.

    The exact one is that of `meta_gradient="exact", lookahead="per_language"` on the same batches,
    with the same random numbers. It costs about L² + 3L passes for L languages; a few rows of a few
    languages are enough.

    Args:
        model: As for `meta_step`.
        train_batches: As for `meta_step`.
        meta_batches: As for `meta_step`.
        inner_learning_rate: As for `meta_step`.
        inner_optimizer: As for `meta_step`.
        optimizer: As for `meta_step`.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        **options: The setting to check, as for `meta_step`.

    Returns:
        The cosine, 0-d. Parameters, gradients and the random state are afterwards as they were, up
        to the random numbers of one evaluation.

    Raises:
        RuntimeError: If an operation of the model has no second derivative.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> config = BottleneckConfig(bottleneck_size=2)
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> batches = {"en": words, "sw": words}
        >>> cosine = meta_fidelity(model, batches, batches, inner_learning_rate=0.01, preset="fast")
        >>> float(cosine) > 0.99
        True
    """
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)
    mixed_rows = outer_step_settings(**options).options.mixed_rows
    problem = outer_problem(model, train_batches, meta_batches, context, mixed_rows=mixed_rows)
    rule = choose_inner_optimizer(inner_optimizer, optimizer, model)

    return fidelity(
        problem.train,
        problem.meta,
        problem.shared,
        problem.language,
        inner_learning_rate=inner_learning_rate,
        inner_optimizer=rule,
        all_reduce=all_reduce,
        loss_scale=loss_scale,
        precision=context.precision(model.device),
        **options,
    )

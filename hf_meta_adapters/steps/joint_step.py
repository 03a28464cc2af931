"""The step of joint training on a model: batches in, gradients out; no optimizer is touched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Autocast, Language
from hf_meta_adapters.meta import JointGradients, joint_gradient
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._batch_losses import batch_losses
from hf_meta_adapters.steps._outer_problem import check_batches, check_separate
from hf_meta_adapters.steps._same_step import check_same_step
from hf_meta_adapters.steps.language_groups import LanguageGroups
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext


def joint_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    *,
    loss_function: LossFunction | None = None,
    autocast: Autocast = nullcontext,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    languages_per_pass: int = 1,
    surgery: Surgery | None = None,
    step_weights: StepWeights | None = None,
) -> JointGradients:
    """Compute the gradient of joint training, 1/L Σ_l L_l^train(θ, φ_l), for θ and every φ_l.

    Args:
        model: The model.
        train_batches: As for `meta_step`.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        languages_per_pass: As for `meta_step`.
        surgery: As for `meta_step`.
        step_weights: As for `meta_step`.

    Returns:
        The gradients by parameter name, and the losses.

    Raises:
        ConfigurationError: If a parameter of θ or φ was frozen after the model was made, or
            processes take different steps.
        LanguageError: If a language is unknown to the model.
        DataError: If a language has no batch.

    Example:
        >>> import torch
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> model = get_language_model(base, None, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> step = joint_step(model, {"en": words, "sw": words})
        >>> set(step.shared) <= set(model.shared_parameters())
        True
    """
    check_batches(model, train_batches)
    given = {
        "the function": "joint_step",
        "the languages of the training batches": list(train_batches),
        "the languages of the meta batches": None,
        "the options": [languages_per_pass, surgery, step_weights],
    }
    check_same_step(model, all_reduce, given)
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)

    if languages_per_pass != 1:
        check_separate(surgery, step_weights, languages_per_pass)
        groups = LanguageGroups(model, list(train_batches), languages_per_pass, context)
        return groups.joint_gradient(train_batches)

    return joint_gradient(
        batch_losses(model, train_batches, context),
        model.shared_parameters(),
        {key: model.language_parameters(key) for key in train_batches},
        all_reduce=all_reduce,
        loss_scale=loss_scale,
        surgery=surgery,
        step_weights=step_weights,
    )
